"""The page of the document: whole without a network, and closed to everything else."""

import re
from pathlib import Path

from tests.api.served import Api, with_api


def test_the_page_needs_nothing_but_us(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        response = await api.raw("GET", "/docs", key=None)
        page = await response.text()
        assert (response.status, response.content_type) == (200, "text/html")
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert not re.search(r"https?:|//", policy)
        names = re.findall(r'(?:src|href)="(?!data:)([^"]+)"', page)
        assert len(names) == 4
        assert not re.search(r"<script[^>]*>[^<]", page)  # nothing inline, as the policy has it
        for name in names:
            response = await api.raw("GET", f"/{name}", key=None)
            assert response.status == 200, name
            assert name == "openapi.json" or response.headers["Content-Security-Policy"] == policy
            if name == "docs/swagger-ui.js":
                assert b"SwaggerUIBundle" in await response.read()

    with_api(tmp_path, test)


def test_the_files_are_those_and_no_others(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        for name in ("redoc.js", "__init__.py", "..%2F..%2Fsite.py", "swagger_bundle.js"):
            assert (await api.call("GET", f"/docs/{name}", key=None))[0] == 404, name

    with_api(tmp_path, test)
