"""Raising an exception in the task that another thread runs, once, and in nothing but that task.

An exception that is sent to a thread (PyThreadState_SetAsyncExc) lands at some later bytecode of it, which may lie
behind the end of the task. So a thread has a door, which is open while code of its task runs. Whoever interrupts raises
a flag, looks whether the door is open, sends, and lowers the flag. The thread closes the door by one assignment; only
if it then sees the flag, or that something was sent, it waits for the flag to go down and takes back what has not
landed. What lands meanwhile is dropped: the task had returned. Without an interruption all this costs two assignments
and two looks.
"""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from fairqued.errors import Interruption
from fairqued.shield import shield_by

T = TypeVar("T")

_send = ctypes.pythonapi.PyThreadState_SetAsyncExc
_send.argtypes, _send.restype = (ctypes.c_ulong, ctypes.py_object), ctypes.c_int
_NOTHING: Any = ctypes.py_object()  # a null pointer: take back what has not landed


class Interruptible:
    """A thread that runs one task after the other. It makes this itself, and calls all but `interrupt`."""

    def __init__(self) -> None:
        self.ident = threading.get_ident()
        self.interrupted_by: type[Interruption] | None = None
        """What was sent to the present task, or will be when a shielded call is over. Set to None for the next task."""
        self._one_at_a_time = threading.Lock()
        self._is_aimed_at = False
        self._open_for: object = None
        self._shielded: object = None
        self._late: type[Interruption] | None = None
        self._cancel: Callable[[], object] | None = None
        shield_by(self.shielded)
        _here.thread = self

    def interrupt(self, task: object, kind: type[Interruption]) -> bool:
        """Raise `kind` in the code of `task`, unless it was interrupted before. False if none of it runs just now."""
        with self._one_at_a_time:
            self._is_aimed_at = True
            try:
                return self.interrupted_by is not None or self._hits(task, kind)
            finally:
                self._is_aimed_at = False

    def _hits(self, task: object, kind: type[Interruption]) -> bool:
        if self._open_for is task:
            self.interrupted_by = kind
            if self._cancel is None:
                _send(self.ident, kind)
            else:
                self._cancel()
            return True
        if self._shielded is task:
            self.interrupted_by = self._late = kind
            return True
        return False

    def call(self, task: object, work: Callable[[], T]) -> T:
        """Call code of `task`. Raises what it raises, and what interrupted it before it returned."""
        kept: defaultdict[None, T] = defaultdict(work)
        raised: BaseException | None = None
        try:
            self._open_for = task
            kept[None]  # C code calls `work`, and keeps what it returns: no bytecode lies between
            self._open_for = None
        except BaseException as error:  # noqa: BLE001 - raised below, once nothing can land any more
            self._open_for = None
            raised = error
        if self._is_aimed_at or self.interrupted_by:
            try:
                self._take_back()
            except Interruption:  # it has landed just here
                self._take_back()
        if kept:
            return kept[None]
        try:
            raise raised or AssertionError
        finally:
            del raised  # a cycle otherwise

    def _take_back(self) -> None:
        self._wait_for_aim()
        _send(self.ident, _NOTHING)

    def _wait_for_aim(self) -> None:
        while self._is_aimed_at:
            time.sleep(0)

    def run(self, task: object, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of `task` on a loop of its own, where an interruption cancels it."""
        try:
            return asyncio.run(self._run_within(task, coroutine))
        except asyncio.CancelledError as error:
            if self.interrupted_by is None:
                raise
            raise self.interrupted_by from error
        finally:
            self._wait_for_aim()
            self._cancel = None

    async def _run_within(self, task: object, coroutine: Coroutine[Any, Any, T]) -> T:
        running = asyncio.current_task()
        assert running
        self._cancel = partial(_cancel, asyncio.get_running_loop(), running)
        self._open_for = task
        try:
            return await coroutine
        finally:
            self._open_for = None

    def shielded(self, work: Callable[[], T]) -> T:
        """Call `work`, which the code of a task needs whole: an interruption waits until it is over."""
        task = self._open_for
        if task is None or self._cancel is not None:
            return work()
        self._shielded = task
        self._open_for = None
        try:
            self._wait_for_aim()
            _land()
            return work()
        finally:
            self._open_for = task
            self._shielded = None
            self._wait_for_aim()
            late, self._late = self._late, None
            if late is not None:
                raise late


def _land() -> None:
    """A function begins by looking for what was sent: here it lands, at the latest."""


def _cancel(loop: asyncio.AbstractEventLoop, running: asyncio.Task[Any]) -> None:
    with suppress(RuntimeError):  # the loop was closed meanwhile
        loop.call_soon_threadsafe(running.cancel)


class _Here(threading.local):
    thread: Interruptible | None = None


_here = _Here()


def call(task: object, work: Callable[[], Any]) -> Any:
    """Call code of `task`, to its end also if it is a coroutine, so that it can be interrupted if a worker runs it."""
    thread = _here.thread
    if thread is None:
        value = work()
        return asyncio.run(value) if inspect.iscoroutine(value) else value
    value = thread.call(task, work)
    if not inspect.iscoroutine(value):
        return value
    if thread.interrupted_by is not None:  # as it began
        value.close()
        raise thread.interrupted_by
    return thread.run(task, value)
