"""`python -m tests.fault.chaos.clients PLAN`: the clients of a chaos, a thread each, until a file says that it is over.

PLAN is a JSON file: who there is and with what keys, the seed, and where everything lies. What was asked and answered goes
to `FOLDER/clients/`. When the file `FOLDER/over` appears they stop, and one last client sees to it that everything comes to
its end, and reads all of it once more.
"""

import json
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from tests.fault.chaos.deeds import DEEDS, RELEASE, RESERVATIONS, SERVICES, TASK, UNDRAIN, Client, World
from tests.fault.chaos.line import Line

PAUSE_MAX_S: Final = 0.15
AGAIN_S: Final = 0.25
SETTLE_MAX_S: Final = 600.0


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(plan["folder"])
    world = World(tuple(plan["address"]), folder / "jobs", plan["nodes"], plan["gpus"], plan["plugin"])
    over, finished = threading.Event(), threading.Event()
    clients = [_client(world, plan, number, who) for number, who in enumerate(plan["clients"])]
    threads = [threading.Thread(target=work, args=(client, over)) for client in clients]
    for thread in threads:
        thread.start()
    while not (folder / "over").exists() and any(thread.is_alive() for thread in threads):
        finished.wait(0.1)
    over.set()
    for thread in threads:
        thread.join()
    settle(_client(world, plan, len(clients), {"name": "last", "user": "admin", "role": "admin", "key": plan["key"]}))


def _client(world: World, plan: dict[str, Any], number: int, who: dict[str, str]) -> Client:
    dice = random.Random(f"{plan['seed']} {number}")
    address = (world.address[0], world.address[1])
    names = (who["name"], who["user"], who["role"])
    line = Line(address, names, who["key"], Path(plan["folder"]), dice.getrandbits(64))
    return Client(who["name"], who["role"], line, dice, world, lambda: time.sleep(AGAIN_S * (1 + dice.random())))


def work(client: Client, over: threading.Event) -> None:
    """Each of its deeds once, in some order, and then as they come."""
    mine = {name: deed for name, deed in DEEDS.items() if client.role in deed.roles}
    first = client.dice.sample(list(mine), len(mine))
    while not over.is_set():
        (name,) = [first.pop()] if first else client.dice.choices(list(mine), [deed.weight for deed in mine.values()])
        mine[name].do(client)
        over.wait(client.dice.uniform(0, PAUSE_MAX_S))
    client.line.close()


def settle(last: Client) -> None:
    """Everything comes to its end; then all is read once more."""
    until = time.monotonic() + SETTLE_MAX_S
    _let_go(last, until)
    while time.monotonic() < until:
        queue = last.line.ask("GET /v1/queue")
        if queue.status == 200 and queue.answer["queued"] == queue.answer["running"] == 0:
            break
        time.sleep(AGAIN_S)
    last.insist("GET /v1/tasks")
    for tasks in list(last.world.tasks.values()):
        for task in tasks:
            last.line.ask(f"GET {TASK}", {"taskId": task})
    for operation in ("GET /v1/experiments", f"GET {RESERVATIONS}", "GET /v1/plugins", "GET /v1/scheduler/workers"):
        last.line.ask(operation)
    last.insist("POST /v1/audit/verify")
    last.line.ask("GET /v1/audit/chain-root")
    last.line.close()


def _let_go(last: Client, until: float) -> None:
    """No worker is kept empty, no GPU reserved, no notebook waits."""
    ways = {
        "GET /v1/scheduler/workers": (UNDRAIN, "workerId"),
        f"GET {RESERVATIONS}": (RELEASE, "reservationId"),
        f"GET {SERVICES}": (f"DELETE {SERVICES}/{{serviceId}}", "serviceId"),
    }
    for operation, (end, name) in ways.items():
        found = last.line.ask(operation)
        while found.status != 200 and time.monotonic() < until:
            time.sleep(AGAIN_S)
            found = last.line.ask(operation)
        for one in found.answer or []:
            if one.get("status") not in ("expired", "stopped", "error"):
                last.insist(end, {name: one["id"]})


if __name__ == "__main__":
    main()
