"""The tree against published vectors, against RFC 6962's definitions written down plainly, and against itself."""

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchmld.core.merkle import (
    EMPTY_ROOT,
    TILE_BYTES,
    Tile,
    Tree,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    partial_tiles,
    root_at,
    subtree_hash,
    tile_path,
)

# The leaves and roots of Certificate Transparency's reference tests (merkletree, merkle/testonly).
CT_LEAVES = [
    bytes.fromhex(leaf)
    for leaf in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
CT_PATHS = {  # (leaf, size): audit path
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
}
CT_CONSISTENCY = {
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


class Kept:
    """A tree and its tiles in memory; reading gives the full tile, or the part that a tree of `size` has."""

    def __init__(self) -> None:
        self.tree = Tree()
        self.tiles: dict[tuple[int, int], bytes] = {}

    def add(self, leaves: list[bytes]) -> None:
        for tile in self.tree.add(leaves):
            assert (tile.level, tile.index) not in self.tiles
            assert len(tile.hashes) == TILE_BYTES
            self.tiles[tile.level, tile.index] = tile.hashes

    def read(self, level: int, index: int, least: int) -> bytes:
        edge = {(tile.level, tile.index): tile.hashes for tile in self.tree.edge()}
        hashes = (self.tiles | edge)[level, index]
        assert len(hashes) >= 32 * least
        return hashes


def kept(leaves: list[bytes]) -> Kept:
    made = Kept()
    made.add(leaves)
    return made


def numbered(count: int) -> list[bytes]:
    return [sha256(number.to_bytes(4, "big")).digest() for number in range(count)]


def plain_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, 2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\1" + plain_root(leaves[:k]) + plain_root(leaves[k:])).digest()


def test_the_roots_of_the_reference_tests() -> None:
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    for size, root in enumerate(CT_ROOTS, 1):
        assert kept(CT_LEAVES[:size]).tree.root().hex() == root
        assert root_at(size, kept(CT_LEAVES).read).hex() == root


@pytest.mark.parametrize(("asked", "path"), CT_PATHS.items())
def test_the_audit_paths_of_the_reference_tests(asked: tuple[int, int], path: list[str]) -> None:
    assert [node.hex() for node in inclusion_proof(*asked, kept(CT_LEAVES).read)] == path


@pytest.mark.parametrize(("asked", "proof"), CT_CONSISTENCY.items())
def test_the_consistency_proofs_of_the_reference_tests(asked: tuple[int, int], proof: list[str]) -> None:
    assert [node.hex() for node in consistency_proof(*asked, kept(CT_LEAVES).read)] == proof


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 600), min_size=1, max_size=5))
def test_any_batches_give_the_same_tree(batches: list[int]) -> None:
    leaves = numbered(sum(batches))
    made, at = Kept(), 0
    for count in batches:
        made.add(leaves[at : at + count])
        at += count
        assert made.tree.root() == plain_root(leaves[:at])
        assert [(t.level, t.index, t.width) for t in made.tree.edge()] == partial_tiles(at)
    assert made.tiles == kept(leaves).tiles
    loaded = Tree.load(at, made.read)
    assert (loaded.size, loaded.root()) == (at, made.tree.root())
    assert loaded.add(numbered(300)) == made.tree.add(numbered(300))


def test_a_tree_over_three_levels() -> None:
    leaves = numbered(70_000)
    made = kept(leaves)
    assert len([tile for tile in made.tiles if tile[0] == 0]) == 273  # the example of tlog-tiles
    assert partial_tiles(70_000) == [(0, 273, 112), (1, 1, 17), (2, 0, 1)]
    assert made.tree.root() == root_at(70_000, made.read) == plain_root(leaves)
    assert made.tiles[1, 0][:32] == plain_root(leaves[:256])


def test_a_tile_has_its_place_in_the_file_tree() -> None:
    assert tile_path(0, 1234067) == "0/x001/x234/067"
    assert tile_path(0, 273, 112) == "0/273.p/112"
    assert tile_path(2, 0) == "2/000"
    assert tile_path(1, 1000) == "1/x001/000"
    assert Tile(0, 0, bytes(64)).width == 2
    for wrong in ((-1, 0, 1), (0, -1, 1), (0, 0, 0), (0, 0, 257)):
        with pytest.raises(ValueError, match="no tile"):
            tile_path(*wrong)


def test_what_cannot_be_proved_is_refused() -> None:
    read = kept(numbered(5)).read
    for index, size in ((5, 5), (-1, 5)):
        with pytest.raises(ValueError, match="not in a tree"):
            inclusion_proof(index, size, read)
    with pytest.raises(ValueError, match="does not continue"):
        consistency_proof(4, 3, read)
    assert consistency_proof(0, 5, read) == consistency_proof(5, 5, read) == []
    assert inclusion_proof(0, 1, read) == []


def test_hashes_are_told_apart_by_their_prefix() -> None:
    left, right = numbered(2)
    assert leaf_hash(left + right) != node_hash(left, right)
    assert subtree_hash([left]) == left
