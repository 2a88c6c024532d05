"""What the scheduler is told of a worker's dataset cache: all of it in a hello, then what changed, with heartbeats.

A message holds at most KEYS_MAX keys that are there and as many that are not any more.
"""

from typing import Any, Final

from fetchmld.store.dataset_cache import DatasetCache

KEYS_MAX: Final = (
    256  # the scheduler keeps some more (`core.caches.WORKER_KEYS_MAX`), so that it never forgets one of them
)


class CacheNews:
    """Remembers what was said. A hello begins anew, so nothing that a broken connection lost is missed."""

    def __init__(self, cache: DatasetCache) -> None:
        self._cache = cache
        self._said: dict[str, int] = {}
        self._version = -1

    def all(self) -> dict[str, int]:
        """The keys of what is there, to bytes."""
        self._version = self._cache.version
        self._said = self._cache.held(KEYS_MAX)
        return self._said

    def changes(self) -> dict[str, Any]:
        """What a heartbeat has to add since the last message; mostly nothing."""
        if self._version == self._cache.version:
            return {}
        before, now = self._said, self.all()
        added = {key: size for key, size in now.items() if before.get(key) != size}
        dropped = [key for key in before if key not in now]
        fields = {"datasets_added": added, "datasets_dropped": dropped}
        return {name: value for name, value in fields.items() if value}
