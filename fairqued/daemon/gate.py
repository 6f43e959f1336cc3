"""The fork gate: no other thread of the master is in the middle of anything while it forks.

A fork copies locks as they are; one that another thread holds at that moment is held in the child for ever. So threads
do each unit of work (one call of Redis, a line of log) at the gate, and wait outside it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class ForkGate:
    """Units of work of any number of threads, or one fork. A fork that waits goes before new units of work."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._working = 0
        self._wants_fork = False

    @contextmanager
    def work(self) -> Iterator[None]:
        """For threads: one unit of work, at most about a second."""
        with self._condition:
            self._condition.wait_for(lambda: not self._wants_fork)
            self._working += 1
        try:
            yield
        finally:
            with self._condition:
                self._working -= 1
                self._condition.notify_all()

    @contextmanager
    def fork(self, timeout_seconds: float) -> Iterator[bool]:
        """For the main thread: True once no unit of work is under way; False if that took too long: do not fork."""
        deadline = time.monotonic() + timeout_seconds
        self._condition.acquire()
        try:
            self._wants_fork = True
            yield self._condition.wait_for(lambda: self._working == 0, max(0.0, deadline - time.monotonic()))
        finally:
            self._wants_fork = False
            self._condition.notify_all()
            self._condition.release()
