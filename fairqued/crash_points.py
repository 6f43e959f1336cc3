"""Points at which a process can be made to kill itself, so that tests meet every moment at which one may die.

`$FAIRQUED_CRASH_POINT=after_pop` kills the first process that comes to that point, `after_pop@3` the one that makes it
the third time. A daemon and its workers count together, so the next ones live on.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
from collections.abc import Callable
from typing import NamedTuple

from fairqued.errors import ConfigError

VARIABLE = "FAIRQUED_CRASH_POINT"

CRASH_POINTS = {
    "booting": "a worker has begun to boot, and is not registered",
    "registered": "a worker is registered, and has not said that it is ready",
    "before_heartbeat": "a worker is about to beat; the first time: its lease was never renewed by itself",
    "after_heartbeat": "the reply to a heartbeat has arrived",
    "after_pop": "the reply that brought tasks has arrived, and none of them has begun",
    "in_task": "a task has begun, its handler was not called",
    "before_finish": "tasks have returned, and Redis does not know",
    "after_finish": "the reply to completions has arrived",
    "before_fork": "the master has announced a worker, and not forked it",
    "after_fork": "the master has forked a worker, and not noted that it lives",
    "after_death": "the master has seen a worker's death, and not noted it",
    "in_reclaim": "tasks of a dead worker are put back, the master has not noted it",
}
"""Every point, and what is so there."""


class _Plan(NamedTuple):
    name: str
    times: int


def parse(text: str) -> _Plan:
    """What the variable asks for. Raises ConfigError."""
    name, at, times = text.partition("@")
    if name not in CRASH_POINTS:
        raise ConfigError(f"${VARIABLE}: there is no crash point {name!r}; there are {', '.join(CRASH_POINTS)}")
    if at and not (times.isdecimal() and int(times) > 0):
        raise ConfigError(f"${VARIABLE}: expected a number above 0 after @, not {times!r}")
    return _Plan(name, int(times or 1))


def _do_nothing(name: str, /) -> None:
    """The crash point of those who need none."""


def _armed(plan: _Plan) -> Callable[[str], None]:
    passed = mmap.mmap(-1, 4)  # shared with every process that is forked later

    def crash(name: str, /) -> None:
        if name != plan.name:
            return
        (before,) = struct.unpack("I", passed)
        passed[:] = struct.pack("I", before + 1)
        if before + 1 == plan.times:
            os.kill(os.getpid(), signal.SIGKILL)

    return crash


crash_point: Callable[[str], None] = _armed(parse(asked)) if (asked := os.environ.get(VARIABLE)) else _do_nothing
"""Die here, if this is the point that the environment names."""
