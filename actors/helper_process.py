"""A process of ours that does one thing beside the daemon, says one line of JSON, and ends."""

import asyncio
import json
import sys
from typing import Any


async def ask_helper(module: str, *arguments: str) -> dict[str, Any]:
    """What `python -m module arguments` said, or {"error": why it said nothing}. Cancelled, it ends the process."""
    helper = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, complaint = await helper.communicate()
    finally:
        if helper.returncode is None:
            helper.kill()
            await helper.wait()
    try:
        said: dict[str, Any] = json.loads(out)
    except ValueError:
        lines = complaint.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        return {"error": f"status {helper.returncode}: {lines[-1]}"}
    return said
