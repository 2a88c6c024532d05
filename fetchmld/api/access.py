"""Whose objects a caller may see or change, and whether their role has an operation at all (the table: `roles`).

Owns no state and reads no request. An operation that the table does not have is for the administrator alone.
"""

from typing import Final

from fetchmld.api.head import Caller
from fetchmld.api.roles import MACHINES, ROLES, may
from fetchmld.core.errors import Forbidden, NotFound
from fetchmld.core.model import Experiment, TaskView

MAY: Final[dict[str, frozenset[str]]] = {role: may(role) for role in (*ROLES, *MACHINES)}
ADMIN: Final = "admin"
_SEES_ALL: Final = frozenset({"operator", "auditor", ADMIN})
_CHANGES_ALL: Final = frozenset({"operator", ADMIN})


def check_operation(caller: Caller, operation_id: str) -> None:
    """Raises Forbidden unless the caller's role has this operation."""
    if caller.role != ADMIN and operation_id not in MAY.get(caller.role, frozenset()):
        raise Forbidden(f"role {caller.role} may not do this ({operation_id})")


def sees_all(caller: Caller) -> bool:
    """May the caller see what others submitted?"""
    return caller.role in _SEES_ALL


def is_redacted(caller: Caller) -> bool:
    """Does the caller see tasks without what may hold secrets?"""
    return caller.role == "auditor"


def audits(caller: Caller) -> bool:
    """May the caller read the audit's events?"""
    return caller.role == ADMIN or "listAuditEvents" in MAY.get(caller.role, frozenset())


def seen(caller: Caller, task_id: str, task: TaskView | None) -> TaskView:
    """`task`, if it is there and the caller may know of it; else the same NotFound in both cases."""
    if task is None or not (task["user_id"] == caller.user_id or caller.role in _SEES_ALL):
        raise no_such_task(task_id)
    return task


def sees(caller: Caller, experiment: Experiment) -> bool:
    """May the caller know of the experiment?"""
    mine = experiment["user_id"] == caller.user_id or caller.role in _SEES_ALL
    return mine and experiment["status"] != "deleted"


def changes_all(caller: Caller) -> bool:
    """May the caller change what others own?"""
    return caller.role in _CHANGES_ALL


def no_such_task(task_id: str) -> NotFound:
    """The one answer for a task that is missing, gone, or another's."""
    return NotFound(f"there is no task {task_id[:64]!r}")


def check_priority(caller: Caller, priority: int, user_priority_max: int) -> None:
    """Raises Forbidden where a caller who does not run the cluster asks for more than is allowed."""
    if priority > user_priority_max and caller.role not in _CHANGES_ALL:
        raise Forbidden(f"priority {priority} is more than this server allows to users ({user_priority_max})")
