"""Exit codes of the daemon, and of its workers, which the master reads."""

from __future__ import annotations

import os
import signal
import time

import orjson

from fairqued.worker.worker import EXIT_FENCED, EXIT_SLOT_DIED

OK = 0
FAILED = 1
BAD_USAGE = 2
REDIS_UNREACHABLE = 5
STATE_DIR_UNUSABLE = 6

WORKER_BOOT_FAILED = 80
"""A worker could not get ready: a module that cannot be imported, a Redis that is away."""
WORKER_ORPHANED = 83
"""A worker's master had died."""
WORKER_STOPPED = 84
"""A worker was told to stop, and did. Not 0: a task that calls `os._exit(0)` ends its process with that."""

OWN_WORKER_CODES = frozenset({WORKER_BOOT_FAILED, WORKER_ORPHANED, WORKER_STOPPED, EXIT_FENCED})
"""A worker that ended with one of these ended by itself: no task of it is suspected of killing it."""

_WORDS = {
    WORKER_BOOT_FAILED: "could not boot",
    WORKER_ORPHANED: "ended because its master had died",
    WORKER_STOPPED: "ended",
    EXIT_SLOT_DIED: "ended because a slot died",
    EXIT_FENCED: "ended because it had lost its lease",
}


class Failure(Exception):
    """The daemon cannot go on: one line for people, and the exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def in_words(wait_status: int, killed: str = "") -> str:
    """What became of a process, from the status of `waitpid`; `killed` is why its master killed it, if it did."""
    code = exit_code(wait_status)
    if killed and -code == signal.SIGKILL:
        return f"{killed}, and was killed"
    if code >= 0:
        return _WORDS.get(code, f"ended with exit code {code}")
    return f"was sent {_signal_name(-code)}" + (", perhaps out of memory" if -code == signal.SIGKILL else "")


def as_error(wait_status: int, killed: str = "") -> bytes:
    """The end of a process as the error of a task that is held to have caused it (JSON); `killed` as above."""
    code = exit_code(wait_status)
    cause = {"signal": _signal_name(-code)} if code < 0 else {"exit_code": code}
    message = f"the process that ran this task {in_words(wait_status, killed)}"
    return orjson.dumps({"type": "ProcessDied", "message": message, **cause, "at": time.time()})


def exit_code(wait_status: int) -> int:
    """The exit code, or minus the signal that ended the process."""
    return os.waitstatus_to_exitcode(wait_status)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of the real-time signals have no name
        return f"signal {number}"
