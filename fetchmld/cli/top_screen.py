"""The screen of `top`: numbers above, tasks in the middle, workers below, and what was asked about one task.

Looks every few seconds, in a thread of its own, so that a daemon that is slow or away never stops the keyboard.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, NamedTuple

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import DataTable, Footer, Static
from textual.worker import get_current_worker

from fetchmld.cli.tasks import HEAD, row
from fetchmld.client.client import Client
from fetchmld.client.errors import ClientError

SHOWN_MAX: Final = 200  # of each state
LOG_BYTES: Final = 16_384
_LIVE: Final = ("running", "preparing", "collecting", "queued")


class Look(NamedTuple):
    """Everything that is shown, as of one moment."""

    status: Mapping[str, Any]
    tasks: list[Mapping[str, Any]]
    workers: list[Mapping[str, Any]]


def look(client: Client, user_id: str | None) -> Look:
    """Ask for all of it: what runs first, then what waits, whose turn is next first. Raises ClientError."""
    tasks: list[Mapping[str, Any]] = []
    for status in _LIVE:
        found = client.tasks(status=status, user_id=user_id, limit=SHOWN_MAX)["tasks"]
        tasks += sorted(found, key=lambda task: -task["priority_aged"]) if status == "queued" else found
    return Look(client.scheduler(), tasks, list(client.workers()))


class Screen(App[None]):
    """The application."""

    CSS = """
    #numbers, #workers, #answer { height: auto; padding: 0 1; }
    DataTable { height: 1fr; }
    Vertical { height: auto; max-height: 50%; overflow-y: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "leave"),
        Binding("w", "why", "why"),
        Binding("l", "log", "log"),
        Binding("c", "cancel", "cancel"),
        Binding("escape", "calm", "close", show=False),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, client: Client, every_s: float, user_id: str | None) -> None:
        super().__init__()
        self._client, self._every_s, self._user_id = client, every_s, user_id
        self._one_at_a_time = threading.Lock()  # the client has one connection
        self._to_cancel = ""

    def compose(self) -> ComposeResult:
        yield Static(id="numbers", markup=False)
        yield DataTable[str](cursor_type="row", zebra_stripes=True)
        yield Vertical(Static(id="workers", markup=False), Static(id="answer", markup=False))
        yield Footer()

    def on_mount(self) -> None:
        table = self.query_one(DataTable)
        for name in HEAD:
            table.add_column(name, key=name)
        self.run_worker(self._watch, thread=True, group="watch")

    def _watch(self) -> None:
        worker = get_current_worker()
        while not worker.is_cancelled:
            try:
                with self._one_at_a_time:
                    found = look(self._client, self._user_id)
                self.call_from_thread(self.show, found)
            except ClientError as error:
                self.call_from_thread(self._say, "numbers", f"cannot look: {error}")
            until = time.monotonic() + self._every_s
            while time.monotonic() < until and not worker.is_cancelled:
                time.sleep(0.1)

    def show(self, found: Look) -> None:
        """Put it on the screen; the row that was chosen stays chosen."""
        status = found.status
        waiting = status.get("batch_queue_depth", 0) + status.get("service_queue_depth", 0)
        self._say(
            "numbers",
            f"{status.get('tasks_running', 0)} running, {waiting} waiting, "
            f"{status.get('tasks_completed_24h', 0)} completed in 24 h, "
            f"{status.get('workers_active', 0)} of {status.get('workers_total', 0)} workers active",
        )
        self._say("workers", "\n".join(map(worker_line, found.workers)) or "no worker is connected")
        table, chosen = self.query_one(DataTable), self._chosen()
        table.clear()
        for task in found.tasks:
            table.add_row(*row(task), key=task["id"])
        if chosen in {task["id"] for task in found.tasks}:
            table.move_cursor(row=table.get_row_index(chosen))

    def _chosen(self) -> str:
        table = self.query_one(DataTable)
        if not table.row_count:
            return ""
        return str(table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value)

    def _say(self, where: str, text: str) -> None:
        self.query_one(f"#{where}", Static).update(text)

    # -- keys

    def action_why(self) -> None:
        self._ask(lambda task: str(self._client.explain(task)["reason"]))

    def action_log(self) -> None:
        self._ask(lambda task: (self._client.task(task).get("output") or "(no output yet)")[-LOG_BYTES:])

    def action_cancel(self) -> None:
        chosen = self._chosen()
        if chosen and self._to_cancel == chosen:
            self._ask(self._cancel)
            chosen = ""
        elif chosen:
            self._say("answer", f"c once more cancels {chosen}")
        self._to_cancel = chosen

    def _cancel(self, task_id: str) -> str:
        self._client.cancel(task_id)
        return f"{task_id} is being cancelled"

    def action_calm(self) -> None:
        self._to_cancel = ""
        self._say("answer", "")

    def _ask(self, question: Callable[[str], str]) -> None:
        """Show the answer about the chosen task, once it is there."""
        if not (chosen := self._chosen()):
            return

        def run() -> None:
            try:
                with self._one_at_a_time:
                    answer = question(chosen)
            except ClientError as error:
                answer = str(error)
            self.call_from_thread(self._say, "answer", answer)

        self.run_worker(run, thread=True, group="ask", exclusive=True)


def worker_line(worker: Mapping[str, Any]) -> str:
    """One worker, with a mark for each GPU: # held, . free, x in quarantine, o used by somebody else."""
    has, free = worker["capabilities"], worker["free"]
    marks = {"held": "#", "free": ".", "quarantined": "x", "occupied": "o"}
    gpus = "".join(marks.get(gpu["status"], "?") for gpu in worker.get("gpus", []))
    state = "silent" if worker.get("suspect") else worker["status"]
    used = has["cpu_cores"] - free["cpu_cores"]
    return f"{worker['hostname']:<20} {state:<9} {used}/{has['cpu_cores']} cores{f'  [{gpus}]' if gpus else ''}"
