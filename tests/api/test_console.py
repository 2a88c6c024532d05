"""The console's files, and what stands in their place where they were not built."""

from pathlib import Path

import pytest

from fetchmld.api.handlers import console
from tests.api.served import Api, with_api


@pytest.fixture(autouse=True)
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A console of three files, whatever was built here."""
    place = tmp_path / "static"
    place.mkdir()
    (place / "index.html").write_text("<!doctype html><p>the page</p>")
    (place / "console.js").write_text("'a script'")
    (place / "notes.secret").write_text("not for anybody")
    monkeypatch.setattr(console, "STATIC", place)
    console.files.cache_clear()
    return place


def test_the_page_needs_no_key_and_may_load_nothing_from_elsewhere(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        async with api.client.get("/") as answer:
            assert answer.status == 200
            assert answer.content_type == "text/html"
            assert "the page" in await answer.text()
            policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy

    with_api(tmp_path, test)


def test_files_are_named_one_by_one(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        async with api.client.get("/console/console.js") as answer:
            assert (answer.content_type, await answer.text()) == ("text/javascript", "'a script'")
        for name in ("notes.secret", "..%2Findex.html", "%2Fetc%2Fpasswd", "index.htm"):
            async with api.client.get(f"/console/{name}") as answer:
                assert answer.status == 404, name
                assert (await answer.json())["code"] == "NOT_FOUND"

    with_api(tmp_path, test)


def test_what_a_browser_has_is_not_sent_again(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        async with api.client.get("/") as answer:
            etag = answer.headers["ETag"]
        async with api.client.get("/", headers={"If-None-Match": etag}) as answer:
            assert (answer.status, await answer.read()) == (304, b"")

    with_api(tmp_path, test)


def test_a_console_that_was_not_built_says_so(tmp_path: Path, built: Path) -> None:
    (built / "index.html").unlink()

    async def test(api: Api) -> None:
        async with api.client.get("/") as answer:
            assert answer.status == 200
            assert "was not built" in await answer.text()
        async with api.client.get("/console/console.js") as answer:
            assert answer.status == 404

    with_api(tmp_path, test)
