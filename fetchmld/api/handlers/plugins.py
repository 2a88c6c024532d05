"""Plugins: which there are, how they are, and how each is to run."""

import time
from typing import Final

from aiohttp import web
from pydantic import TypeAdapter

from fetchmld.api import access, browser, wire
from fetchmld.api.answers import reply
from fetchmld.api.body import read_object
from fetchmld.api.context import CALLER, HEAD, PAGES, REMOTES
from fetchmld.api.head import Caller
from fetchmld.api.intake import GivenConfig
from fetchmld.api.validation import validate
from fetchmld.core.errors import Invalid
from fetchmld.core.model import PluginConfig, PluginMode, PluginView

_CONFIG: Final[TypeAdapter[GivenConfig]] = TypeAdapter(GivenConfig)


async def list_(request: web.Request) -> web.Response:
    """GET /v1/plugins."""
    found = await request.app[HEAD].plugins.all()
    return reply([wire.plugin(one, _base(request), _sees_settings(request)) for one in found])


async def read(request: web.Request) -> web.Response:
    """GET /v1/plugins/{pluginName}."""
    found = await _one(request)
    return reply(wire.plugin(found, _base(request), _sees_settings(request)))


async def config(request: web.Request) -> web.Response:
    """GET /v1/plugins/{pluginName}/config: settings for the administrator alone, secrets for nobody."""
    return reply(wire.plugin_config(await _one(request), _sees_settings(request)))


async def configure(request: web.Request) -> web.Response:
    """PUT /v1/plugins/{pluginName}/config: 200 once it is on record; the plugin's status says what comes of it."""
    head, name = request.app[HEAD], request.match_info["pluginName"]
    given: GivenConfig = validate(_CONFIG, await read_object(request))
    if given.get("image"):
        raise Invalid("image: sidecars run in environments of their own, not in containers; leave it out")
    made = await head.plugins.configure(request[CALLER], name, complete(given))
    return reply(wire.plugin(made, _base(request), True))


async def disable(request: web.Request) -> web.Response:
    """DELETE /v1/plugins/{pluginName}/config: what runs is stopped, what tasks do goes on."""
    await request.app[HEAD].plugins.disable(request[CALLER], request.match_info["pluginName"])
    return web.Response(status=204)


async def health(request: web.Request) -> web.Response:
    """GET /v1/plugins/{pluginName}/health."""
    return reply(wire.plugin_health(await _one(request), time.time()))


async def pages(request: web.Request) -> web.StreamResponse:
    """Anything below /plugins/{pluginName}: the sidecar's own pages and API."""
    name = request.match_info["pluginName"]
    if not request.match_info["rest"]:  # its page asks by addresses relative to this one
        raise web.HTTPPermanentRedirect(f"/plugins/{name}/")
    if "Authorization" not in request.headers and (elsewhere := browser.to_services(request)) is not None:
        return elsewhere  # only browsers' sessions have an address of their own
    upstream = await request.app[HEAD].plugin_upstream(name)
    if "://" in upstream.endpoint:
        return await request.app[REMOTES].bring(request, upstream, f"/plugins/{name}")
    return await request.app[PAGES].bring(request, upstream, f"/plugins/{name}")


def complete(given: GivenConfig) -> PluginConfig:
    """Who says nothing means: enabled, as a sidecar, with the defaults. `disabled` is a mode and a flag; either will do."""
    mode: PluginMode = given.get("mode", "sidecar" if given.get("enabled", True) else "disabled")
    return PluginConfig(enabled=given.get("enabled", mode != "disabled"), mode=mode, settings=given.get("settings", {}))


async def _one(request: web.Request) -> PluginView:
    return await request.app[HEAD].plugins.one(request.match_info["pluginName"])


def _sees_settings(request: web.Request) -> bool:
    caller: Caller = request[CALLER]
    return caller.role == access.ADMIN


def _base(request: web.Request) -> str:
    """What addresses begin with, as the caller has reached us."""
    return str(request.url.origin())
