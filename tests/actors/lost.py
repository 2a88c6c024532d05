"""`python -m tests.actors.lost DIR`: joins a Ray whose GCS hangs, and then dies; says `lost` if it finds out in time."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from actors.cluster import Cluster
from actors.ray_compat import RayLost, RayRuntime

HANGS_S = 1.0


async def join(runtime: RayRuntime) -> None:
    gcs = runtime.pids()["gcs_server"]
    os.kill(gcs, signal.SIGSTOP)
    asyncio.get_running_loop().call_later(HANGS_S, os.kill, gcs, signal.SIGKILL)
    try:
        await Cluster(runtime, {}, ())._populate()
    except RayLost:
        print("lost", flush=True)


def main() -> None:
    runtime = RayRuntime(Path(sys.argv[1]))
    runtime.start()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(join(runtime))
    runtime.stop()
    os._exit(0)  # a thread still waits


if __name__ == "__main__":
    main()
