"""Whose task, and which task: context variables that follow a request or a running task."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from threading import Event
from types import MappingProxyType
from typing import Any

from fairqued.validation import check_id

logger = logging.getLogger("fairqued.task")

_user: ContextVar[str | None] = ContextVar("fairqued_user", default=None)


@contextmanager
def as_user(user_id: str) -> Iterator[None]:
    """Enqueue for `user_id` inside this block, wherever a task names no user itself. Web middleware uses this.

    Raises InvalidTask if `user_id` is not a valid id.
    """
    token = _user.set(check_id(user_id, "user_id"))
    try:
        yield
    finally:
        _user.reset(token)


def ambient_user() -> str | None:
    """The user of the enclosing `as_user` block, else of the running task."""
    return _user.get() or current_task().user_id or None


@dataclass(frozen=True)
class CurrentTask:
    """The task that runs here; inert outside a worker, so that a direct call of a task function works."""

    task_id: str = ""
    user_id: str = ""
    attempt: int = 0
    retries_left: int = 0
    meta: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    _worker_id: str = field(default="", repr=False, compare=False)
    _cancelled: Event = field(default_factory=Event, repr=False, compare=False)
    _lease_lost: Event = field(default_factory=Event, repr=False, compare=False)

    @property
    def is_running(self) -> bool:
        """Whether a worker runs this task, as opposed to a direct call."""
        return bool(self.task_id)

    @cached_property
    def logger(self) -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
        """Names the task on every line, as fields of the record."""
        if not self.task_id:
            return logger
        about = {"task": self.task_id, "user": self.user_id, "attempt": self.attempt, "worker": self._worker_id}
        return _TaskLogger(logger, about)

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked to cancel this task: a long task looks here now and then, and returns."""
        return self._cancelled.is_set()

    @property
    def lease_lost(self) -> bool:
        """Whether this worker lost the task to another one, or may have: its completion will be refused then."""
        return self._lease_lost.is_set()


class _TaskLogger(logging.LoggerAdapter[logging.Logger]):
    """Adds the task to each record, beside the `extra` of the call (what Python 3.13 calls `merge_extra`)."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, {**kwargs, "extra": {**(kwargs.get("extra") or {}), **(self.extra or {})}}


_INERT = CurrentTask()
_task: ContextVar[CurrentTask] = ContextVar("fairqued_task", default=_INERT)


def current_task() -> CurrentTask:
    """The task that runs in this context, or an inert one."""
    return _task.get()


def enter_task(running: CurrentTask) -> None:
    """Make `running` the current task of this context; a worker calls this in a fresh context for each attempt."""
    _task.set(running)
