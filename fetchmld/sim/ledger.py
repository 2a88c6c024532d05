"""The modelled ledger: facts count once their batch is durable, a batch as a whole or not at all.

It keeps the bytes, as a disk would, so that a replay sees what was written and not what the state made of it since.
"""

from collections.abc import Iterator
from typing import Any

import orjson

from fetchmld.core.messages import Fact


class Ledger:
    """What survives every crash."""

    def __init__(self) -> None:
        self._facts: list[bytes] = []
        self.last_clock_us = 0

    @staticmethod
    def encode(facts: list[Fact]) -> list[bytes]:
        return [orjson.dumps(fact) for fact in facts]

    def append(self, batch: list[bytes]) -> list[Fact]:
        """The batch is durable now; its facts, as whoever reads the record will see them."""
        self._facts += batch
        facts = [_decode(data) for data in batch]
        self.last_clock_us = max([self.last_clock_us, *(fact.clock_us for fact in facts)])
        return facts

    def read(self) -> Iterator[Fact]:
        return map(_decode, self._facts)

    def __len__(self) -> int:
        return len(self._facts)


def _decode(data: bytes) -> Fact:
    fields: dict[str, Any] = orjson.loads(data)
    return Fact(**fields)
