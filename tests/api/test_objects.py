"""Objects by hash: machines that joined bring and take them, nobody else."""

from pathlib import Path

from blake3 import blake3

from tests.api.served import KEYS, Api, with_api

WORKER = KEYS["worker"]
CONTENT = bytes(range(256)) * 2000
PATH = f"/v1/objects/{blake3(CONTENT).hexdigest()}"


def test_what_is_put_can_be_had_and_need_not_be_sent_again(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        known = {"If-None-Match": f'"{PATH.rpartition("/")[2]}"'}
        assert (await api.call("GET", PATH, key=WORKER, headers=known))[0] == 404
        assert (await api.call("PUT", PATH, key=WORKER, data=CONTENT))[0] == 204
        assert (await api.call("PUT", PATH, key=WORKER, data=CONTENT))[0] == 204
        assert await api.call("GET", PATH, key=WORKER) == (200, CONTENT)
        assert (await api.call("GET", PATH, key=WORKER, headers=known))[0] == 304
        other = {"If-None-Match": '"ff"'}
        assert (await api.call("GET", PATH, key=WORKER, headers=other))[0] == 200

    with_api(tmp_path, test)


def test_other_bytes_are_refused(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        assert (await api.call("PUT", PATH, key=WORKER, data=CONTENT[:-1]))[0] == 422
        assert (await api.call("GET", PATH, key=WORKER))[0] == 404

    with_api(tmp_path, test)
