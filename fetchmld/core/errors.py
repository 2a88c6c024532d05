"""The error tree, and the words a task's `error` may begin with.

    FetchmlError                    carries the contract's code and its HTTP status
    ├── BadRequest                  BAD_REQUEST 400          the request could not be read
    ├── Unauthorized                UNAUTHORIZED 401         no key, or an unknown one
    ├── Forbidden                   FORBIDDEN 403            the key's role may not do this
    ├── NotFound                    NOT_FOUND 404            no such object, or not yours
    ├── Conflict                    CONFLICT 409             the object's state forbids this
    │   └── Repeated                                         its Idempotency-Key was used before; the message is the id made
    ├── Stalled                     BAD_REQUEST 408          the body stopped coming
    ├── BodyTooLarge                BAD_REQUEST 413          the body is over the limit
    ├── Misdirected                 BAD_REQUEST 421          meant for another server, by its Host header
    ├── Invalid                     VALIDATION_ERROR 422     readable, but its content is wrong
    ├── RateLimited                 RATE_LIMITED 429         too many requests for this key
    ├── Unavailable                 SERVICE_UNAVAILABLE 503  cannot be done now; try again later
    └── Internal                    INTERNAL_ERROR 500       our fault

Each takes one message and says what was wrong, with what value, and what to do. They cross Ray and our own channel by
(class name, message), so each keeps exactly that one positional argument.
"""

from typing import ClassVar, Final, Self


class FetchmlError(Exception):
    """Base of every error that a caller may see. `code` is one of the contract's nine, `status` the HTTP status."""

    code: ClassVar[str] = "INTERNAL_ERROR"
    status: ClassVar[int] = 500
    retry_after_s: int = 0  # where it passes by itself; not carried across processes

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def passing(self, retry_after_s: int) -> Self:
        """This error, saying after how many seconds to try again."""
        self.retry_after_s = retry_after_s
        return self

    def __str__(self) -> str:
        return self.message


class BadRequest(FetchmlError):
    code = "BAD_REQUEST"
    status = 400


class Unauthorized(FetchmlError):
    code = "UNAUTHORIZED"
    status = 401


class Forbidden(FetchmlError):
    code = "FORBIDDEN"
    status = 403


class NotFound(FetchmlError):
    code = "NOT_FOUND"
    status = 404


class Conflict(FetchmlError):
    code = "CONFLICT"
    status = 409


class Repeated(Conflict):
    """What was asked for was done before, under the same Idempotency-Key: `message` is the id of what it made."""


class Stalled(FetchmlError):
    code = "BAD_REQUEST"
    status = 408


class Misdirected(FetchmlError):
    code = "BAD_REQUEST"
    status = 421


class BodyTooLarge(FetchmlError):
    code = "BAD_REQUEST"
    status = 413


class Invalid(FetchmlError):
    code = "VALIDATION_ERROR"
    status = 422


class RateLimited(FetchmlError):
    code = "RATE_LIMITED"
    status = 429


class Unavailable(FetchmlError):
    code = "SERVICE_UNAVAILABLE"
    status = 503


class Internal(FetchmlError):
    code = "INTERNAL_ERROR"
    status = 500


BY_NAME: Final[dict[str, type[FetchmlError]]] = {
    kind.__name__: kind
    for kind in (
        BadRequest,
        Unauthorized,
        Forbidden,
        NotFound,
        Conflict,
        Repeated,
        Stalled,
        BodyTooLarge,
        Misdirected,
        Invalid,
        RateLimited,
        Unavailable,
        Internal,
    )
}


def from_name(name: str, message: str) -> FetchmlError:
    """The error that `name` and `message` describe on the wire; an unknown name is our own fault."""
    return BY_NAME.get(name, Internal)(message)


# What a task's `error` may begin with: WORD, then ": ", then plain words. A closed list: scripts match on it.
TASK_ERROR_WORDS: Final[frozenset[str]] = frozenset(
    {
        "CANCELLED",  # somebody asked for it
        "EXIT_NONZERO",  # the program ended with a status other than 0
        "SIGNALLED",  # a signal that we did not send ended the program
        "EXIT_UNKNOWN",  # it ended while nobody of ours could read its status
        "TIME_LIMIT",  # it ran longer than its time_limit_s
        "OOM_KILLED",  # it used more memory than it asked for
        "NO_ENTRYPOINT",  # the request named none and the snapshot has no train.py
        "ENTRYPOINT_NOT_FOUND",  # the program or script is not there
        "ENTRYPOINT_NOT_EXECUTABLE",  # it is there but cannot be executed
        "DATASET_NOT_FOUND",  # the source does not exist
        "DATASET_MISMATCH",  # what was fetched does not have the sum that was asked for
        "DATASET_UNAVAILABLE",  # it could not be fetched now (network, disk)
        "SNAPSHOT_UNAVAILABLE",  # the code to run in could not be had
        "ENVIRONMENT_FAILED",  # the packages that its code asks for could not be installed
        "WORKSPACE_IN_USE",  # another of the user's Jupyter servers has it
        "CULLED",  # a Jupyter server that did nothing for too long
        "LAUNCH_FAILED",  # our side could not start it
        "WORKER_LOST",  # the node went away under it
        "LEASE_EXPIRED",  # the node could not reach the head for too long and stopped it
        "GPU_LOST",  # a GPU it held failed
        "ELEMENT_FAILED",  # of an array: elements of it did not complete
        "DEPENDENCY_FAILED",  # a task it depends on did not end as required
        "RESERVATION_EXPIRED",  # the reservation it named is over
        "UNSATISFIABLE",  # no worker could ever meet the request, and the setting says to fail such tasks
    }
)
