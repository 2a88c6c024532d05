"""Brings the output of this machine's tasks to the head, so that it can be read there when this machine is gone.

What runs is sent as it grows, once a second at most; what has ended lies in files that only grow, and is sent from there.
Nothing is remembered here across restarts: the head says how much it has of each file. Its answer is the acknowledgement,
and until it comes the bytes are sent again.
"""

import asyncio
import logging
import time
from collections.abc import Iterator
from itertools import count
from typing import Final

from actors.runner_words import name_of
from fetchmld.core.agent import RunKey
from fetchmld.core.model import LogPlace
from fetchmld.runner.logs import read_live
from fetchmld.store.log_files import kept_files, read_kept
from fetchmld.store.remote_logs import RemoteLogs
from fetchmld.store.shipment import Piece, live_name

log = logging.getLogger(__name__)

SHIP_S: Final = 1.0
RETRY_MAX_S: Final = 10.0
ROUND_BYTES: Final = 4 * 2**20  # of one shipment
LIVE_BYTES: Final = 2**18  # of one attempt in it
ROUND_FILES: Final = 1000


class LogShipper:
    """One per machine that joined. All but reading of kept files is done on the loop."""

    def __init__(self, directory: str, bytes_max: int, remote: RemoteLogs, keep_s: float) -> None:
        """`bytes_max`: what is kept of one attempt's output. `keep_s`: older files than that are nobody's any more."""
        self._directory = directory
        self._bytes_max = bytes_max
        self._remote = remote
        self._keep_s = keep_s
        self._there: dict[str, int] = {}  # what the head has of each file
        self._running: dict[str, int] = {}  # attempt: its slot
        self._sending: set[str] = set()  # files that are on their way
        self._put_away: dict[str, LogPlace] = {}  # attempts of which live output is there, and where it is now
        self._forgotten: set[str] = set()  # those of them whose end is on record, here or elsewhere
        self._due: dict[str, int] = {}  # files of which the head may lack something, by the number of the last news
        self._numbers = count()
        self._learned = False

    # -- told by the agent

    def runs(self, key: RunKey, rank: int, slot: int) -> None:
        self._running[name_of(key, rank)] = slot

    def ended(self, key: RunKey, rank: int, place: LogPlace) -> None:
        """Its output lies where `place` says."""
        name = name_of(key, rank)
        self._running.pop(name, None)
        if place["file"]:
            self._due[place["file"]] = next(self._numbers)
        live = live_name(name)
        if live in self._there or live in self._sending or not self._learned:
            self._put_away[name] = place

    def forget(self, key: RunKey, rank: int) -> None:
        """The scheduler has acknowledged its end."""
        if (name := name_of(key, rank)) in self._put_away:
            self._forgotten.add(name)

    def has_all(self, file: str, size: int) -> bool:
        """Whether the head has acknowledged all of a kept file."""
        return self._there.get(file, 0) >= size

    # -- the work

    async def run(self) -> None:
        """Until cancelled."""
        pause_s = SHIP_S
        while True:
            try:
                more = await self._round()
                pause_s = 0.0 if more else SHIP_S
            except (OSError, ValueError, KeyError) as error:  # no answer, or one that says nothing of use
                pause_s = min(RETRY_MAX_S, max(SHIP_S, 2 * pause_s))
                log.warning("logs.not_shipped", extra={"why": str(error), "again_in_s": pause_s})
            await asyncio.sleep(pause_s)

    async def _round(self) -> bool:
        """Send what the head lacks; whether there is more than one shipment takes."""
        if not self._learned:
            await self._learn()
        pieces = [*self._moves(), *self._live()]
        room = ROUND_BYTES - sum(len(piece.data) for piece in pieces)
        found, complete = await asyncio.to_thread(self._kept, list(self._due.items()), room)
        for file, number in complete:
            if self._due[file] == number:  # nothing was added meanwhile
                del self._due[file]
        pieces += found
        if not pieces:
            return False
        self._sending = {piece.file for piece in pieces}
        there = await asyncio.to_thread(self._remote.ship, pieces)
        for piece in pieces:
            self._acknowledged(piece, there)
        return sum(len(piece.data) for piece in pieces) >= ROUND_BYTES // 2

    async def _learn(self) -> None:
        self._there = await asyncio.to_thread(self._remote.lengths)
        oldest_at = time.time() - self._keep_s if self._keep_s else 0.0
        for file in await asyncio.to_thread(list, kept_files(self._directory)):
            if file.written_at >= oldest_at and self._there.get(file.name, 0) < file.size:
                self._due[file.name] = next(self._numbers)
        self._put_away = {name: place for name, place in self._put_away.items() if live_name(name) in self._there}
        self._learned = True

    def _acknowledged(self, piece: Piece, there: dict[str, int]) -> None:
        for live in (piece.was, piece.file if piece.gone else ""):
            self._there.pop(live, None)
            self._put_away.pop(live[len("live/") : -len(".log")], None)
            self._forgotten.discard(live[len("live/") : -len(".log")])
        if not piece.gone:
            self._there[piece.file] = there[piece.file]

    def _moves(self) -> Iterator[Piece]:
        """What was sent of attempts that are over: the beginning of a whole file, or of what a segment has.

        In the second case it is made complete, and left to the head once the attempt's end is on record: should that be
        another attempt's end, nothing else says where this output is.
        """
        for name, place in self._put_away.items():
            live = live_name(name)
            offset = self._there.get(live, 0)
            if place["file"].startswith("whole/"):
                yield Piece(place["file"], was=live)
            elif (lacking := place["length"] - offset) > 0:
                yield Piece(live, offset, read_kept(self._directory, place["file"], place["offset"] + offset, lacking))
            elif name in self._forgotten and self.has_all(place["file"], place["offset"] + place["length"]):
                yield Piece(live, gone=True)

    def _live(self) -> Iterator[Piece]:
        room = ROUND_BYTES
        for name, slot in list(self._running.items())[:ROUND_FILES]:
            self._running[name] = self._running.pop(name)  # those behind it are first the next time
            file = live_name(name)
            offset = self._there.get(file, 0)
            data, _ = read_live(self._directory, slot, offset, min(room, LIVE_BYTES), self._bytes_max)
            if data and room > 0:
                room -= len(data)
                yield Piece(file, offset, data)

    def _kept(self, due: list[tuple[str, int]], room: int) -> tuple[list[Piece], list[tuple[str, int]]]:
        """What the head lacks of these files, and which of them it has whole. In a thread."""
        pieces, complete = list[Piece](), list[tuple[str, int]]()
        for file, number in due:
            if room <= 0 or len(pieces) >= ROUND_FILES:
                break
            offset = self._there.get(file, 0) or self._there.get(file.replace("whole/", "live/"), 0)
            data = read_kept(self._directory, file, offset, room)
            if data:
                room -= len(data)
                pieces.append(Piece(file, offset, data))
            else:
                complete.append((file, number))
        return pieces, complete
