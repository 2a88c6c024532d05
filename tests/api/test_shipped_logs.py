"""Machines that joined send the output of their tasks, nobody else."""

import asyncio
from pathlib import Path

from fetchmld.store.head_http import HeadHttp
from fetchmld.store.remote_logs import RemoteLogs
from fetchmld.store.shipment import Piece, live_name, pack
from tests.api.served import KEYS, Api, with_api

PATH = "/v1/shipped-logs/w1"
WORKER = KEYS["worker"]


def test_a_machine_sends_and_asks_what_is_there(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        head = HeadHttp(str(api.client.make_url("/")), WORKER)
        remote = RemoteLogs(head, "w1")
        assert await asyncio.to_thread(remote.lengths) == {}
        said = await asyncio.to_thread(
            remote.ship, [Piece("segments/0.seg", 0, b"abc"), Piece("whole/t-1-0.log", 9, b"x")]
        )
        assert said == {"segments/0.seg": 3, "whole/t-1-0.log": 0}
        assert await asyncio.to_thread(remote.lengths) == said
        head.close()

    with_api(tmp_path, test)


def test_nobody_else_may_and_what_is_no_shipment_is_refused(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        for key in (KEYS["user"], KEYS["operator"], KEYS["viewer"]):
            assert (await api.call("GET", PATH, key=key))[0] == 403
            assert (await api.call("POST", PATH, key=key, data=b""))[0] == 403
        assert (await api.call("POST", PATH, key=WORKER, data=b"nonsense"))[0] == 400
        assert (await api.call("POST", "/v1/shipped-logs/..%2Fx", key=WORKER, data=pack([Piece(live_name("a"))])))[
            0
        ] == 400
        assert not (tmp_path / "x").exists()

    with_api(tmp_path, test)


def test_the_last_copy_of_an_output_is_not_given_up(tmp_path: Path) -> None:
    """A live file goes only once the record says where else its output is."""

    async def test(api: Api) -> None:
        task = await api.submit()
        live = live_name(f"{task['id']}-1-0")
        body = pack([Piece(live, 0, b"all there is")])
        gone = pack([Piece(live, gone=True)])
        assert await api.call("POST", PATH, key=WORKER, data=body) == (200, {live: 12})
        assert await api.call("POST", PATH, key=WORKER, data=gone) == (200, {})
        assert api.head.shipped.lengths("w1") == {live: 12}
        unknown = pack([Piece(live_name("nosuchtask-1-0"), 0, b"x"), Piece(live_name("nosuchtask-1-0"), gone=True)])
        assert (await api.call("POST", PATH, key=WORKER, data=unknown))[0] == 200
        assert api.head.shipped.lengths("w1") == {live: 12}

    with_api(tmp_path, test)
