"""The head's copy of this machine's logs, by HTTP. One try each: whoever sends goes on where it was, at its own pace."""

import http.client
import json
from collections.abc import Iterable
from typing import cast

from fetchmld.store.head_http import HeadHttp
from fetchmld.store.shipment import Piece, pack


class RemoteLogs:
    """What the head has of the worker's logs. Blocks."""

    def __init__(self, head: HeadHttp, worker_id: str) -> None:
        self._head = head
        self._target = f"/v1/shipped-logs/{worker_id}"

    def lengths(self) -> dict[str, int]:
        """How long each file is there. Raises OSError where the head does not say."""
        return self._ask("GET", None)

    def ship(self, pieces: Iterable[Piece]) -> dict[str, int]:
        """How long the files are there now. Raises OSError where the head has not taken them, or not said so."""
        return self._ask("POST", pack(pieces))

    def _ask(self, method: str, body: bytes | None) -> dict[str, int]:
        try:
            with self._head.asked(method, self._target, body) as answer:
                said = answer.read()
        except http.client.HTTPException as error:
            raise OSError(f"{type(error).__name__}: {error}") from None
        if answer.status != 200:
            raise OSError(f"the head answered {answer.status}: {said[:200].decode(errors='replace')}")
        return cast(dict[str, int], json.loads(said))
