"""The web console: the bundled page at `/` and its files; where the package was built without Node, a page that says so.

Open to everybody: the page itself says nothing; what it shows it asks for with the session of whoever looks.
"""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from aiohttp import web

from fetchmld.core.errors import NotFound

STATIC: Final = Path(__file__).parents[2] / "console" / "static"
PAGE: Final = "index.html"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
# Scripts, styles and connections of this origin alone; no frame may show the page, no form leaves it.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_NOT_BUILT: Final = b"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>FetchML</title>
<h1>FetchML runs</h1>
<p>The web console was not built: that needs Node.js and npm when the package is installed.
Install them and run <code>make start</code> again, or <code>pip install .</code>.</p>
<p>All else works without it: the <code>fetchmld</code> command, and the API that <a href="/docs">/docs</a> describes.</p>
</html>
"""


@dataclass(slots=True, frozen=True)
class _File:
    body: bytes
    packed: bytes  # by gzip
    kind: str
    etag: str


async def page(request: web.Request) -> web.Response:
    """GET /."""
    return _answer(request, files().get(PAGE) or _file(_NOT_BUILT, _TYPES[".html"]))


async def file(request: web.Request) -> web.Response:
    """GET /console/{file}: what the page is made of."""
    name = request.match_info["file"]
    found = files().get(name)
    if found is None:
        raise NotFound(f"the console has no file {name[:64]!r}")
    return _answer(request, found)


def _answer(request: web.Request, found: _File) -> web.Response:
    headers = {
        "Content-Security-Policy": POLICY,
        "Cache-Control": "no-cache",  # kept, and asked about: an upgrade shows at the next look
        "ETag": found.etag,
        "Vary": "Accept-Encoding",
    }
    if request.headers.get("If-None-Match") == found.etag:
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = found.kind
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        return web.Response(body=found.packed, headers={**headers, "Content-Encoding": "gzip"})
    return web.Response(body=found.body, headers=headers)


@cache
def files() -> dict[str, _File]:
    """Every file of the console by its name, read once; empty where it was not built."""
    if not (STATIC / PAGE).exists():
        return {}
    return {
        path.name: _file(path.read_bytes(), _TYPES[path.suffix])
        for path in sorted(STATIC.iterdir())
        if path.suffix in _TYPES
    }


def _file(body: bytes, kind: str) -> _File:
    return _File(body, gzip.compress(body, mtime=0), kind, f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"')
