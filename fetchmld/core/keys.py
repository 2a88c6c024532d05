"""API keys: who may come in, until when. Only the SHA-256 of a key is ever seen here.

A revoked key stays known as such: the first administrator's, which is read from a file at each start, stays out as well.
"""

from typing import Final

from fetchmld.core.desk import Desk
from fetchmld.core.errors import Conflict, NotFound
from fetchmld.core.messages import KeyCreated, KeyRevoked
from fetchmld.core.model import Key

KEYS_MAX: Final = 10_000  # ever created, revoked ones among them: each is a line of the state for good


def create(desk: Desk, event: KeyCreated) -> None:
    """Reply: the Key."""
    if event.sha256 in desk.state.keys:
        desk.fail(event.ticket, Conflict(f"key {event.key_id} exists already"))
    elif len(desk.state.keys) >= KEYS_MAX:
        desk.fail(event.ticket, Conflict(f"there have been {KEYS_MAX} keys, which is the limit"))
    else:
        metadata = {
            "user_id": event.user_id,
            "role": event.role,
            "sha256": event.sha256,
            "expires_at": event.expires_at,
        }
        desk.record(event, "auth_attempt", "key.create", event.key_id, event.by, metadata, ip=event.ip_address)
        desk.reply(event.ticket, desk.state.keys[event.sha256])


def revoke(desk: Desk, event: KeyRevoked) -> None:
    """Revoke it; twice is the same. Refused for the last administrator's key: nobody could make another one."""
    key = next((key for key in desk.state.keys.values() if key.id == event.key_id), None)
    if key is None:
        desk.fail(event.ticket, NotFound(f"there is no key {event.key_id[:64]!r}"))
        return
    if not key.revoked_at:
        if not _another_admin(desk, key, event.at_us / 1e6):
            desk.fail(event.ticket, Conflict(f"key {key.id} is the last one of an administrator; create another first"))
            return
        desk.record(event, "auth_attempt", "key.revoke", key.id, event.by, {"sha256": key.sha256}, ip=event.ip_address)
    desk.reply(event.ticket)


def _another_admin(desk: Desk, key: Key, at: float) -> bool:
    """Whether some administrator can come in at wall time `at` without `key`."""
    return key.role != "admin" or any(
        other.role == "admin" and other.is_valid(at) for other in desk.state.keys.values() if other is not key
    )
