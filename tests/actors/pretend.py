"""Actors that stand in for the real ones: they write what is done to them into one file, and fail on demand."""

import asyncio
import os
from pathlib import Path
from typing import Any


class Pretend:
    def __init__(self, settings: dict[str, Any]) -> None:
        self._diary = Path(settings["run_dir"]) / "diary"
        self._started = False

    def _note(self, what: str) -> None:
        with self._diary.open("a") as file:
            file.write(f"{what} {type(self).__name__}\n")

    async def start(self) -> None:
        await asyncio.sleep(0)
        self._started = True
        self._note("start")

    async def ping(self) -> dict[str, Any]:
        return {"started": self._started, "pid": os.getpid(), "ppid": os.getppid()}

    async def shutdown(self) -> None:
        self._note("shutdown")

    async def add(self, one: int, other: int) -> int:
        return one + other


class First(Pretend):
    pass


class Second(Pretend):
    pass


class Hesitant(Pretend):
    """Its start takes until nobody has the file `hold`."""

    async def start(self) -> None:
        self._note("hesitate")
        while self._diary.with_name("hold").exists():
            await asyncio.sleep(0.02)
        await super().start()


class Broken(Pretend):
    async def start(self) -> None:
        raise ValueError("no such colour: 'blurple'")


class Moody(Pretend):
    """Fails its first start, and is well from then on."""

    async def start(self) -> None:
        mood = self._diary.with_name("mood")
        if not mood.exists():
            mood.touch()
            raise ValueError("not today")
        await super().start()
