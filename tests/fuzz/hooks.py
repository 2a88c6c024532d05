"""What schemathesis must not do to the daemon that it is held against.

It must not wait for a task, nor take its own key away, nor send a line longer than any server takes.
"""

import os
from typing import Any

import schemathesis

WAIT_S = "0.05"
QUERY_CHARACTERS_MAX = 400  # each may take twelve in the line, and names come again and again
OWN_KEY = "FETCHML_FUZZ_KEY_ID"  # the id of the key that all requests are made with


@schemathesis.hook
def map_query(_context: Any, query: dict[str, Any] | None) -> dict[str, Any] | None:
    """A wait that is allowed is a short one, and a query of objects fits into a line."""
    if query is not None and len(repr(query)) > QUERY_CHARACTERS_MAX:
        query.pop("plugin_configs", None)
    wait_s = None if query is None else query.get("wait_s")
    if query is not None and isinstance(wait_s, int | float) and 0 < wait_s <= 60:
        query["wait_s"] = WAIT_S
    return query


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: dict[str, Any]) -> None:
    """Whoever revokes keys spares this one."""
    given = case.path_parameters or {}
    if given.get("keyId") == os.environ.get(OWN_KEY):
        given["keyId"] = "none"
