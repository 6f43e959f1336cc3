"""`fairqued` in which something of the master's fails a few times: `$FAIRQUED_TEST_FAULT` says what."""

import errno
import os
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from fairqued.daemon import main
from fairqued.daemon.identity import StateDirectory
from fairqued.daemon.master import Master
from fairqued.errors import QueueUnavailable
from fairqued.scheduler.scheduler import TaskScheduler
from fairqued.store import Store

VARIABLE = "FAIRQUED_TEST_FAULT"
CHECKOUT = Path(__file__).parents[2]


def failing(function: Callable[..., Any], error: BaseException, times: int) -> Callable[..., Any]:
    """The function, but its first calls fail."""
    calls = count()

    def fail_first(*args: Any, **kwargs: Any) -> Any:
        if next(calls) < times:
            raise error
        return function(*args, **kwargs)

    return fail_first


def fork_fails() -> None:
    os.fork = failing(os.fork, OSError(errno.EAGAIN, "Resource temporarily unavailable"), 2)


def disk_is_full() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    StateDirectory.announce = failing(StateDirectory.announce, full, 2)  # type: ignore[method-assign]


def duty_fails() -> None:
    Master._keep_redis = failing(Master._keep_redis, ZeroDivisionError(), 2)  # type: ignore[method-assign]


def chore_fails() -> None:
    TaskScheduler.promote = failing(TaskScheduler.promote, ZeroDivisionError(), 3)  # type: ignore[method-assign]


def scheduler_dies() -> None:
    TaskScheduler.trim = failing(TaskScheduler.trim, SystemExit(), 1)  # type: ignore[method-assign]


def reclaim_fails() -> None:
    Store.reclaim = failing(Store.reclaim, QueueUnavailable("not now"), 5)  # type: ignore[method-assign]


FAULTS = {
    each.__name__: each for each in (fork_fails, disk_is_full, duty_fails, chore_fails, scheduler_dies, reclaim_fails)
}


def program(fault: str) -> tuple[list[str], dict[str, str]]:
    """The command and the environment for a daemon with a fault."""
    return [sys.executable, "-m", __name__], {"PYTHONPATH": str(CHECKOUT), VARIABLE: fault}


if __name__ == "__main__":
    FAULTS[os.environ[VARIABLE]]()
    main.main()
