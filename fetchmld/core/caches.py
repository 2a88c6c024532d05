"""Which datasets each worker says it has in its cache, by content: what the workers for a task are ranked by.

Nothing of this is durable. A worker says it all when it says hello, and what changed with its heartbeats; what it says
late, or not at all, costs a fetch and nothing else, because a cache is only ever a reason to prefer a worker.
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from itertools import islice
from typing import Final

from fetchmld.core.model import DatasetSpec, WorkerId

KEY_CHARACTERS: Final = 16
WORKER_KEYS_MAX: Final = 512  # of one worker; what it told of first is forgotten
HOLDERS_MAX: Final = 64  # looked at for one task, of all its datasets; where more have one, any of them will do
_HOLDERS_MIN: Final = 16  # of each
_SCORE_MAX: Final = 2**62  # what the native queue can hold


def dataset_key(spec: DatasetSpec) -> str:
    """The dataset's name among caches: the start of its sum, or of its source's hash where no sum is asked for."""
    if sha256 := spec.get("sha256"):
        return sha256[:KEY_CHARACTERS]
    return blake2b(spec["source"].encode("utf-8", "surrogatepass"), digest_size=KEY_CHARACTERS // 2).hexdigest()


def keys_of(spec: DatasetSpec, sha256: str) -> list[str]:
    """All names of a dataset whose sum turned out to be `sha256`: a later task may ask for it by sum or by source."""
    return [key for key in {dataset_key(spec): None, sha256[:KEY_CHARACTERS]: None} if key]


class Caches:
    """What each worker holds, and for each dataset who holds it."""

    def __init__(self) -> None:
        self._of: dict[WorkerId, dict[str, int]] = {}  # the longest unused first
        self._holders: dict[str, dict[WorkerId, int]] = {}  # with its bytes

    def replace(self, worker_id: WorkerId, held: Mapping[str, int]) -> None:
        """The worker holds these and nothing else: keys to bytes, the longest unused first."""
        self.change(worker_id, {}, list(self._of.get(worker_id, ())))
        self.change(worker_id, held, ())

    def change(self, worker_id: WorkerId, added: Mapping[str, int], dropped: Iterable[str]) -> None:
        """The worker holds some less, then some more."""
        held = self._of.setdefault(worker_id, {})
        for key in dropped:
            self._drop(worker_id, held, key)
        for key, total_bytes in added.items():
            self._drop(worker_id, held, key)  # to be the newest again
            held[key] = self._holders.setdefault(key, {})[worker_id] = total_bytes
        for key in list(held)[:-WORKER_KEYS_MAX]:
            self._drop(worker_id, held, key)

    def _drop(self, worker_id: WorkerId, held: dict[str, int], key: str) -> None:
        if held.pop(key, None) is None:
            return
        del self._holders[key][worker_id]
        if not self._holders[key]:
            del self._holders[key]

    def has_all(self, worker_id: WorkerId, specs: Iterable[DatasetSpec]) -> bool:
        """Does the worker hold all of these datasets?"""
        held = self._of.get(worker_id, {})
        return all(dataset_key(spec) in held for spec in specs)

    def bytes_held(self, specs: Iterable[DatasetSpec]) -> dict[WorkerId, int]:
        """How many bytes of these datasets each worker holds, at least 1 where it holds any of them."""
        found: dict[WorkerId, int] = {}
        keys = {dataset_key(spec): None for spec in specs}
        for key in keys:
            holders = self._holders.get(key, {})
            for worker_id in islice(holders, max(_HOLDERS_MIN, HOLDERS_MAX // len(keys))):
                found[worker_id] = min(_SCORE_MAX, found.get(worker_id, 0) + max(1, holders[worker_id]))
        return found
