"""The served document as a page: Swagger UI from the installed package, so that it needs no network.

The page has a policy that lets it load nothing but these files and ask nobody but us.
"""

import importlib.util
from pathlib import Path
from typing import Final

from aiohttp import web

from fetchmld.core.errors import NotFound

_PAGE: Final = b"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>FetchML: API</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<noscript>This page needs JavaScript; the document itself is at <a href="openapi.json">openapi.json</a>.</noscript>
<script src="docs/swagger-ui.js"></script><script src="docs/start.js"></script>
</body>
</html>
"""
_START: Final = b"""window.ui = SwaggerUIBundle({
  url: "openapi.json", dom_id: "#page", deepLinking: true, validatorUrl: null, docExpansion: "list",
});
"""
_FILES: Final = {
    "swagger-ui.js": ("swagger_bundle.js", "text/javascript"),
    "swagger-ui.css": ("swagger_style.css", "text/css"),
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_HEADERS: Final = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}


async def page(_request: web.Request) -> web.Response:
    """GET /docs."""
    return web.Response(body=_PAGE, content_type="text/html", charset="utf-8", headers=_HEADERS)


async def file(request: web.Request) -> web.StreamResponse:
    """GET /docs/{file}: one of the page's three files."""
    name = request.match_info["file"]
    if name == "start.js":
        return web.Response(body=_START, content_type="text/javascript", charset="utf-8", headers=_HEADERS)
    if name not in _FILES:
        raise NotFound(f"the page of the document has no file {name[:64]!r}")
    source, kind = _FILES[name]
    headers = {**_HEADERS, "Content-Type": f"{kind}; charset=utf-8", "Cache-Control": "no-cache"}
    return web.FileResponse(_installed() / source, headers=headers)


def _installed() -> Path:
    """Where the package lies. It is not imported: that would load three such pages into memory."""
    found = importlib.util.find_spec("offapi")
    if found is None or not found.submodule_search_locations:
        raise NotFound("the package offapi, which has the page's files, is not installed")
    return Path(next(iter(found.submodule_search_locations)))
