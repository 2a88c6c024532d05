"""Random bytes: as many as were asked for, none given out twice, not even on both sides of a fork."""

import os

from fetchmld.chance import FETCHED_BYTES, random_bytes


def test_as_many_as_asked_for_and_never_the_same() -> None:
    taken = [random_bytes(16) for _ in range(3 * FETCHED_BYTES // 16)]
    assert {len(one) for one in taken} == {16}
    assert len(set(taken)) == len(taken)
    assert len(random_bytes(2 * FETCHED_BYTES)) == 2 * FETCHED_BYTES
    assert random_bytes(0) == b""


def test_a_child_does_not_get_what_its_parent_gets() -> None:
    random_bytes(16)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, random_bytes(16))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 16) != random_bytes(16)
