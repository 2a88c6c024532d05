"""The history, asked in SQL."""

import logging
from typing import Annotated, Final, Required

from aiohttp import web
from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from fetchmld.api import access
from fetchmld.api.answers import reply
from fetchmld.api.body import read_object
from fetchmld.api.context import CALLER, HEAD
from fetchmld.api.head import SqlQuery
from fetchmld.api.validation import validate

SQL_CHARACTERS_MAX: Final = 20_000
ROWS_MAX: Final = 100_000
SQL_LOGGED_MAX: Final = 200  # characters: enough to know it again


log = logging.getLogger(__name__)


@with_config(ConfigDict(extra="forbid", strict=True))
class HistoryQuery(TypedDict, total=False):
    """The body of POST /v1/history/query."""

    sql: Required[Annotated[str, Field(min_length=1, max_length=SQL_CHARACTERS_MAX)]]
    limit: Annotated[int, Field(ge=1, le=ROWS_MAX)]


_HISTORY_QUERY: Final[TypeAdapter[HistoryQuery]] = TypeAdapter(HistoryQuery)


async def ask(request: web.Request) -> web.Response:
    """POST /v1/history/query: one SELECT over the views that the caller's role may see."""
    given: HistoryQuery = validate(_HISTORY_QUERY, await read_object(request))
    caller = request[CALLER]
    query = SqlQuery(given["sql"], access.audits(caller), access.is_redacted(caller), given.get("limit"))
    answer = await request.app[HEAD].ask_history(query)
    log.info(
        "history_queried",
        extra={
            "user_id": caller.user_id,
            "row_count": answer["row_count"],
            "truncated": answer["truncated"],
            "elapsed_ms": answer["elapsed_ms"],
            "sql": query.sql[:SQL_LOGGED_MAX],
        },
    )
    return reply(answer)
