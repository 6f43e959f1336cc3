"""Exit codes of fairquectl, and which error ends with which."""

from __future__ import annotations

from fairqued.errors import ConfigError, FairquedError, InvalidTask, NotAllowed, QueueUnavailable, TaskNotFound

OK = 0
NEGATIVE = 1
BAD_USAGE = 2
NOT_FOUND = 3
DAEMON_NOT_RUNNING = 4
REDIS_UNREACHABLE = 5

IN_WORDS = (
    "Exit codes: 0 well; 1 a negative answer, or an error; 2 wrong usage or configuration; 3 not found; "
    "4 daemon not running; 5 Redis not reachable."
)


class DaemonNotRunning(FairquedError):
    """No daemon answers on its control socket."""


_CODES: tuple[tuple[type[FairquedError], int], ...] = (
    (ConfigError, BAD_USAGE),
    (InvalidTask, BAD_USAGE),
    (TaskNotFound, NOT_FOUND),
    (DaemonNotRunning, DAEMON_NOT_RUNNING),
    (QueueUnavailable, REDIS_UNREACHABLE),
    (NotAllowed, REDIS_UNREACHABLE),
)


def code_of(error: FairquedError) -> int:
    """The exit code that an error ends with."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), NEGATIVE)
