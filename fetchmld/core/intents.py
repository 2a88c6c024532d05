"""One intent, one task: what was made under an Idempotency-Key, so that a request that is sent again makes nothing new.

Both hashes are in the fact of what was made, so a replay knows them as well. Kept for `INTENT_KEPT_S` by the logical
clock of later facts, and at most `INTENTS_MAX` of them (the fold in `state` forgets).
"""

from typing import Any

from fetchmld.core.desk import Desk
from fetchmld.core.errors import Invalid, Repeated
from fetchmld.core.messages import ExperimentCreated, ReservationAsked, TaskSubmitted
from fetchmld.core.model import Intent


def was_met(desk: Desk, event: TaskSubmitted | ReservationAsked | ExperimentCreated) -> bool:
    """Answers an event whose intent was met before: `Repeated` with the id, or Invalid where the body was another."""
    intent = event.intent
    deed = desk.state.intents.get(intent.key) if intent is not None else None
    if intent is None or deed is None or deed.forget_at_us <= desk.now * 1e6:
        return False
    if deed.body == intent.body:
        desk.fail(event.ticket, Repeated(deed.made))
    else:
        what = f"this key came with another body before, which made {deed.made}"
        desk.fail(event.ticket, Invalid(f"Idempotency-Key: {what}; use a new key for each thing that you want"))
    return True


def metadata(intent: Intent | None) -> dict[str, Any]:
    """What the fact of a deed says of its intent."""
    return {"intent": {"key": intent.key, "body": intent.body}} if intent is not None else {}
