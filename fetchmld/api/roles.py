"""The table of roles: what each may do, and to whose objects. The guard, the tests and docs/roles.md are all made of it.

`python -m fetchmld.api.roles` prints the page. An operation that is not in the table is for the administrator alone.
"""

from typing import Final, Literal

ROLES: Final = ("viewer", "user", "operator", "auditor", "admin")
# no · yes (no user's object is concerned) · own (another's is 404, as if it were not there) · all · redacted (all, without
# what may hold secrets)
Cell = Literal["no", "yes", "own", "all", "redacted"]
Row = tuple[Cell, Cell, Cell, Cell, Cell]

_YES: Final[Row] = ("yes", "yes", "yes", "yes", "yes")
_READ: Final[Row] = ("own", "own", "all", "redacted", "all")
_READ_PLAIN: Final[Row] = ("own", "own", "all", "all", "all")
_OUTPUT: Final[Row] = ("own", "own", "all", "no", "all")
_CHANGE: Final[Row] = ("no", "own", "all", "no", "all")
_MAKE: Final[Row] = (
    "no",
    "own",
    "own",
    "no",
    "own",
)  # makes the caller's; or what nobody else may have, the admin neither
_RUN: Final[Row] = ("no", "no", "yes", "no", "yes")
_AUDIT: Final[Row] = ("no", "no", "no", "yes", "yes")
_QUERY: Final[Row] = ("no", "no", "all", "redacted", "all")
_ADMIN: Final[Row] = ("no", "no", "no", "no", "yes")

MATRIX: Final[dict[str, Row]] = {
    "listTasks": _READ,
    "createTask": _MAKE,
    "getTask": _READ,
    "deleteTask": _CHANGE,
    "getQueueStats": _YES,
    "listPlugins": _YES,
    "getPlugin": _YES,
    "getPluginConfig": _YES,
    "putPluginConfig": _ADMIN,
    "disablePlugin": _ADMIN,
    "getPluginHealth": _YES,
    "getSchedulerStatus": _YES,
    "streamSchedulerStatus": _READ,
    "listWorkers": _READ_PLAIN,  # each is shown to everybody, with those tasks on it that the caller may know of
    "getWorker": _READ_PLAIN,
    "drainWorker": _RUN,
    "listReservations": _READ_PLAIN,
    "createReservation": _MAKE,
    "updateJobPriority": _CHANGE,
    "streamJob": _READ,
    "listAuditEvents": _AUDIT,
    "verifyAuditChain": _AUDIT,
    "getAuditChainRoot": _AUDIT,
    "listExperiments": _READ_PLAIN,
    "createExperiment": _MAKE,
    "getExperiment": _READ_PLAIN,
    "updateExperiment": _CHANGE,
    "getExperimentMetrics": _OUTPUT,
    "listJupyterServices": _OUTPUT,
    "startJupyterService": _MAKE,
    "stopJupyterService": _CHANGE,
    "readJupyterService": _OUTPUT,
    "seeJupyter": ("no", "own", "own", "no", "all"),  # it runs what its owner may run
    "seePlugin": ("no", "yes", "yes", "no", "yes"),  # what is behind it knows no users
    "openWebSocket": _READ,
    # Beside the contract's.
    "createTasks": _MAKE,
    "explainTask": _READ,
    "getTaskLogs": _OUTPUT,
    "listTaskArtifacts": _OUTPUT,
    "getTaskArtifact": _OUTPUT,
    "undrainWorker": _RUN,
    "releaseGpu": _RUN,
    "releaseReservation": _CHANGE,
    "diffBlobs": _MAKE,
    "putBlob": _MAKE,
    "getBlob": _MAKE,
    "createSnapshot": _MAKE,
    "listSnapshots": _MAKE,
    "getSnapshot": _MAKE,
    "queryHistory": _QUERY,
    "getAuditCheckpoint": _AUDIT,
    "proveAuditEvent": _AUDIT,
    "proveAuditConsistency": _AUDIT,
    "pruneAudit": _ADMIN,
    "rotateAuditKey": _ADMIN,
    "listKeys": _ADMIN,
    "createKey": _ADMIN,
    "revokeKey": _ADMIN,
    "getMetrics": _YES,
    "endSession": _YES,
    "createTicket": _YES,
    "getObject": _ADMIN,
    "putObject": _ADMIN,
    "getShippedLogs": _ADMIN,
    "shipLogs": _ADMIN,
    "answerCall": _ADMIN,
}
# What is no person's role: the machines that joined, and attempts of tasks, which come with a token for one plugin.
WORKER: Final = "worker"
MACHINES: Final[dict[str, frozenset[str]]] = {
    WORKER: frozenset({"getObject", "putObject", "getShippedLogs", "shipLogs", "answerCall"}),
    "task": frozenset({"seePlugin"}),
}


def may(role: str) -> frozenset[str]:
    """The operations of `role`; none for an unknown one."""
    if role not in ROLES:
        return MACHINES.get(role, frozenset())
    column = ROLES.index(role)
    return frozenset(name for name, row in MATRIX.items() if row[column] != "no")


_INTRODUCTION: Final = """\
# Who may do what

This page is made of the table that the server decides by (`fetchmld/api/roles.py`), and the tests are as well.

A key has one role. `viewer` reads what is its own; `user` works with its own tasks, experiments, services and reservations;
`operator` with everybody's, and with workers; `auditor` reads the record, and tasks without what may hold secrets, and
changes nothing; `admin` may do everything, keys and plugins among it.

- **own**: another's object is answered as if it were not there: 404 with the same body. Lists leave others' out.
- **all**: everybody's. **redacted**: everybody's, without arguments, environment, output and other places for secrets.
- **yes**: no user's object is concerned.
- A priority above `user_priority_max` is 403 for whoever is neither operator nor admin.

Without a key: {open}. Everything else is 401. Machines that joined have a key of their own, for {machines} alone.
The token in a running task's environment is for `seePlugin` of one plugin alone, while that attempt lives.

| operation | {roles} |
|---|{lines}|
"""


def page(open_operations: list[str]) -> str:
    """docs/roles.md."""
    machines = sorted(MACHINES[WORKER])
    text = _INTRODUCTION.format(
        open=", ".join(f"`{name}`" for name in open_operations),
        machines=", ".join(f"`{name}`" for name in machines),
        roles=" | ".join(ROLES),
        lines="|".join("---" for _ in ROLES),
    )
    shown = {"no": "", "redacted": "redacted"}
    return text + "".join(
        f"| `{name}` | {' | '.join(shown.get(cell, cell) for cell in row)} |\n" for name, row in MATRIX.items()
    )


if __name__ == "__main__":
    from fetchmld.api.app import OPERATIONS

    print(page([operation.id for operation in OPERATIONS if operation.is_open]), end="")
