"""A transparency log over facts, in memory: what a daemon's would say, for tests that need no disk."""

from collections.abc import Sequence
from functools import cached_property

from fetchmld.core.chain import Chain
from fetchmld.core.merkle import HASH_BYTES, Tree, consistency_proof, inclusion_proof, root_at
from fetchmld.core.messages import Fact
from fetchmld.store.notes import Checkpoint, Signer, origin_of, sign, verifier_key


class MemoryLog:
    """The log of `facts`, signed by the key of `seed`. Bytes stay as they are; nothing is cached on a disk."""

    def __init__(self, facts: Sequence[Fact], seed: bytes = bytes(32), installation: str = "in-memory") -> None:
        chain = Chain(0, bytes(HASH_BYTES))
        made = [chain.append(fact) for fact in facts]
        self.records = [record for _, record, _ in made]
        self.hashes = [digest for _, _, digest in made]
        self.signer = Signer(origin_of(installation), seed)

    @cached_property
    def _tiles(self) -> dict[tuple[int, int], bytes]:
        tree = Tree()
        full = tree.add(self.hashes)
        return {(tile.level, tile.index): tile.hashes for tile in (*full, *tree.edge())}

    def _read(self, level: int, index: int, least: int) -> bytes:
        return self._tiles[level, index]

    @property
    def verifier_key(self) -> str:
        return verifier_key(self.signer.origin, self.signer.public_key)

    def root(self, size: int) -> bytes:
        return root_at(size, self._read)

    def inclusion(self, seq: int, size: int) -> list[bytes]:
        return inclusion_proof(seq, size, self._read)

    def consistency(self, old: int, new: int) -> list[bytes]:
        return consistency_proof(old, new, self._read)

    def note(self, size: int) -> str:
        return sign(Checkpoint(self.signer.origin, size, self.root(size)).text, [self.signer])
