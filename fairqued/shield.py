"""Code that no interruption of the running task may cut in two, such as a command to Redis and its reply.

A worker interrupts a task by an exception that lands in its thread at whatever bytecode comes next. Outside a worker,
and in other threads, this is a plain call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Shield(Protocol):
    """Calls its argument, and returns or raises what that does."""

    def __call__(self, work: Callable[[], T], /) -> T:
        """Call `work`."""
        ...


class _Local(threading.local):
    shield: Shield | None = None


_local = _Local()


def shield_by(shield: Shield) -> None:
    """Let `shield` call what needs to be whole, in this thread from here on."""
    _local.shield = shield


def whole(work: Callable[[], T]) -> T:
    """Call `work`; an interruption that comes meanwhile is raised when it is over."""
    shield = _local.shield
    return work() if shield is None else shield(work)
