"""The record of an ordinary event, natively; `core.chain` is the specification."""

from fetchmld.core.messages import Fact

def record(fact: Fact, seq: int, prev_hash: bytes) -> bytes | None:
    """As `core.chain.encode`, or None where that has to do it."""
