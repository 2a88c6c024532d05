"""What we are made of: locked with hashes, in a bill that its format's schema accepts, asked about where that can be."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT: Final = Path(__file__).resolve().parents[1]
LOCKS: Final = sorted([*ROOT.glob("*.lock"), *(ROOT / "fetchmld" / "environments").glob("*.lock")])
NPM: Final = json.loads((ROOT / "fetchmld" / "console" / "package-lock.json").read_text())["packages"]
BOUND_S: Final = 300


def tool(name: str, *words: str, code: int = 0) -> str:
    command = [sys.executable, str(ROOT / ".ci" / name), *words]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=BOUND_S, check=False)
    assert ran.returncode == code, ran.stdout + ran.stderr
    return ran.stdout


def pins(lock: Path) -> dict[str, str]:
    """Name and version of every package, read without the tools that are tested here."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", lock.read_text(), re.MULTILINE)
    return {f"pkg:pypi/{name}@{version}": name for name, version in found}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_package_of_a_lock_has_its_hashes_and_no_address(lock: Path) -> None:
    text = lock.read_text()
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert len(blocks) == len(pins(lock)) > 5
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks)
    assert "://" not in text


def test_every_npm_package_has_its_hash_and_no_address() -> None:
    packages = [entry for place, entry in NPM.items() if place]
    assert len(packages) > 5
    assert all(entry["integrity"].startswith("sha512-") and "resolved" not in entry for entry in packages)


# -- the bill


@pytest.fixture(scope="module")
def bill(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("bill") / "bill.json"
    said = tool("sbom.py", "--output", str(path))
    text = path.read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    found: dict[str, Any] = json.loads(text)
    assert said.startswith(f"{path}: {len(found['components'])} components")
    return found


def test_the_bill_has_what_the_locks_have(bill: dict[str, Any]) -> None:
    wanted = set[str]()
    for lock in LOCKS:
        if lock.name == "requirements.lock" or lock.parent.name == "environments":
            wanted |= pins(lock).keys()
    listed = {one["purl"] for one in bill["components"]}
    assert {purl for purl in listed if purl.startswith("pkg:pypi/")} == wanted
    npm = {f"{place.rpartition('node_modules/')[2]}@{entry['version']}" for place, entry in NPM.items() if place}
    assert {purl.removeprefix("pkg:npm/").replace("%40", "@") for purl in listed if "pkg:npm" in purl} == npm
    assert {edge["ref"]: edge.get("dependsOn") for edge in bill["dependencies"]}["fetchmld"] == sorted(listed)


def test_each_has_its_hashes_and_what_is_shipped_a_licence(bill: dict[str, Any]) -> None:
    locked = {purl: name for lock in LOCKS for purl, name in pins(lock).items()}
    daemon = pins(ROOT / "requirements.lock")
    here = {one.metadata["Name"].lower().replace("_", "-").replace(".", "-") for one in distributions()}
    for one in bill["components"]:
        hashes = {each["content"] for each in one["hashes"]}
        assert hashes, one["purl"]
        if one["purl"] in locked:
            places = [ROOT / each["value"] for each in one["properties"] if each["name"] == "fetchml:lock"]
            allowed = {digest for place in places for digest in re.findall(r"sha256:([0-9a-f]{64})", place.read_text())}
            assert hashes <= allowed, one["purl"]
        if one["purl"].startswith("pkg:npm") or (one["purl"] in daemon and daemon[one["purl"]].lower() in here):
            assert one["licenses"], one["purl"]


def test_what_the_console_ships_is_told_from_what_builds_it(bill: dict[str, Any]) -> None:
    scopes = {one["name"]: one["scope"] for one in bill["components"] if one["purl"].startswith("pkg:npm")}
    assert (scopes["preact"], scopes["uplot"], scopes["esbuild"]) == ("required", "required", "excluded")


def test_a_bill_that_says_something_else_is_refused(bill: dict[str, Any]) -> None:
    """The schema is one that can fail."""
    for wrong in ({"bomFormat": "odd"}, {"version": "one"}, {"components": [{"name": "x"}]}):
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps({**bill, **wrong})) is not None


# -- the audit, asking a server of ours that knows of one vulnerability


class Knows(BaseHTTPRequestHandler):
    """Speaks as much of OSV's API as pip-audit asks for."""

    status = 200

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]
        ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9.9.9"}]}]
        one = {"id": "PYSEC-2026-1", "summary": "made up", "affected": [{"package": asked, "ranges": ranges}]}
        body = json.dumps({"vulns": [one]} if asked["name"] == "idna" else {}).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words: Any) -> None:
        pass


@contextmanager
def answering(status: int) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (Knows,), {"status": status}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/query"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def lock_of(folder: Path, *names: str) -> Path:
    lock = folder / "some.lock"
    lock.write_text("".join(f"{name}==1.0 --hash=sha256:{'0' * 64}\n" for name in names))
    return lock


def test_what_is_known_is_named_and_fails(tmp_path: Path) -> None:
    with answering(200) as url:
        said = tool("audit.py", "--osv-url", url, str(lock_of(tmp_path, "blake3", "idna")), code=1)
    assert said.splitlines()[0] == "some.lock: 2 packages asked about, 1 vulnerabilities known"
    assert "idna 1.0: PYSEC-2026-1 (fixed in 9.9.9)" in said


def test_nothing_known_is_clean(tmp_path: Path) -> None:
    with answering(200) as url:
        said = tool("audit.py", "--osv-url", url, str(lock_of(tmp_path, "blake3", "click")))
    assert said == "some.lock: 2 packages asked about, 0 vulnerabilities known\n"


def test_no_answer_is_not_taken_for_a_clean_one(tmp_path: Path) -> None:
    with answering(503) as url:
        said = tool("audit.py", "--osv-url", url, str(lock_of(tmp_path, "blake3")), code=3)
    assert "nobody could say" in said
    assert "The audit is not complete" in said


def test_the_commands_are_there() -> None:
    made = subprocess.run(
        ["make", "-n", "audit", "sbom"], cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ}
    ).stdout
    assert ".ci/audit.py" in made
    assert ".ci/sbom.py" in made
