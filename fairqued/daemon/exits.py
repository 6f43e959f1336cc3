"""Exit codes of the daemon, and of its workers, which the master reads."""

from __future__ import annotations

import os
import signal

from fairqued.worker.worker import EXIT_FENCED, EXIT_ORPHANED, EXIT_SLOT_DIED

OK = 0
FAILED = 1
BAD_USAGE = 2
REDIS_UNREACHABLE = 5
STATE_DIR_UNUSABLE = 6

WORKER_BOOT_FAILED = 80
"""A worker could not get ready: a module that cannot be imported, a Redis that is away."""

OWN_WORKER_CODES = frozenset({OK, WORKER_BOOT_FAILED, EXIT_FENCED, EXIT_ORPHANED})
"""A worker that ended with one of these ended by itself: no task of it is suspected of killing it."""

_WORDS = {
    OK: "ended",
    WORKER_BOOT_FAILED: "could not boot",
    EXIT_SLOT_DIED: "ended because a slot died",
    EXIT_FENCED: "ended because it had lost its lease",
    EXIT_ORPHANED: "ended because its master had died",
}


def in_words(wait_status: int) -> str:
    """What became of a process, from the status of `waitpid`."""
    code = exit_code(wait_status)
    if code >= 0:
        return _WORDS.get(code, f"ended with exit code {code}")
    name = signal.Signals(-code).name
    return f"was sent {name}" + (", perhaps out of memory" if name == "SIGKILL" else "")


def exit_code(wait_status: int) -> int:
    """The exit code, or minus the signal that ended the process."""
    return os.waitstatus_to_exitcode(wait_status)
