"""aiohttp's server with our errors: what fails before a request reaches the application is an ErrorResponse too.

Those are bytes that are not HTTP, over-long lines and headers, and the few refusals that aiohttp answers by itself.
Everything that reaches the application is the guard's.
"""

import logging
from typing import Any

from aiohttp import web

from fetchmld.api.answers import refusal, refusal_of_http, trace_id_of

SHUTDOWN_S = 5.0  # for answers under way at a clean stop; streams are ended before

log = logging.getLogger(__name__)


class ApiProtocol(web.RequestHandler):
    """One connection."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a request that could not be read (400) or that failed outside the guard (500)."""
        trace_id = trace_id_of(None)
        if request.writer.output_size > 0 or isinstance(exc, ConnectionError):
            raise ConnectionError("the client is gone, or the answer has begun: nothing can be said")
        if status < 500:
            log.debug("request.unreadable trace_id=%s", trace_id, exc_info=exc)
            answer = refusal(status, "BAD_REQUEST", "this is not a valid HTTP request", trace_id)
        else:
            log.error("request.failed trace_id=%s", trace_id, exc_info=exc)
            answer = refusal(500, "INTERNAL_ERROR", "something went wrong on our side; quote the trace_id", trace_id)
        answer.force_close()
        return answer

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Sends `resp`; an HTTP error that was raised before the guard (a bad Expect header) gets our shape first."""
        if isinstance(resp, web.HTTPException):
            resp = refusal_of_http(resp, trace_id_of(request.headers.get("traceparent")))
        return await super().finish_response(request, resp, start_time)


class ApiServer(web.Server):
    """Makes an `ApiProtocol` for each connection; aiohttp offers no setting for it."""

    def __call__(self) -> web.RequestHandler:
        return ApiProtocol(self, loop=self._loop, **self._kwargs)


class ApiRunner(web.AppRunner):
    """Runs the application on `ApiServer`."""

    async def _make_server(self) -> web.Server:
        plain = await super()._make_server()
        return ApiServer(
            plain.request_handler, request_factory=plain.request_factory, loop=plain._loop, **plain._kwargs
        )


def make_runner(app: web.Application, **settings: Any) -> ApiRunner:
    """The runner for `app`; `settings` go to aiohttp's AppRunner. No access log: the guard logs what failed."""
    return ApiRunner(app, **{"access_log": None, "shutdown_timeout": SHUTDOWN_S, **settings})
