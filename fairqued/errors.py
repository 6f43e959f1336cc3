"""Every error that fairqued raises: one tree, one class for each refusal; and what it raises in running tasks.

The docstring of a class is its default message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class FairquedError(Exception):
    """fairqued refused or failed."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message if message is not None else " ".join((type(self).__doc__ or "").split()))


class ConfigError(FairquedError):
    """The configuration is missing or wrong."""


class InvalidTask(FairquedError, ValueError):
    """The task cannot be enqueued as it is."""


class PayloadTooLarge(InvalidTask):
    """The task is too large: store the data elsewhere and pass a key to it."""


class DuplicateTask(FairquedError):
    """A task with this task_id exists already."""


class TaskNotFound(FairquedError, LookupError):
    """There is no task with this task_id: it never existed, or its retention is over."""


class QueueFull(FairquedError):
    """The limit of waiting tasks is reached."""


class QueueUnavailable(FairquedError, ConnectionError):
    """Redis cannot be reached, or refuses to work."""


class NotAllowed(FairquedError):
    """Redis or fairqued does not allow this call."""


class EnqueueIncomplete(FairquedError):
    """Some of the tasks were enqueued, the rest were not; `handles` holds those that were."""

    def __init__(self, handles: Sequence[Any], message: str | None = None) -> None:
        super().__init__(message)
        self.handles = list(handles)

    def __reduce__(self) -> tuple[type[EnqueueIncomplete], tuple[list[Any], str]]:
        return type(self), (self.handles, str(self))


class TaskFailed(FairquedError):
    """The task failed for good."""

    def __init__(self, error_type: str, message: str, traceback: str, reason: str) -> None:
        super().__init__(f"{error_type}: {message}" if error_type else message)
        self.error_type = error_type
        self.message = message
        self.traceback = traceback
        self.reason = reason

    def __reduce__(self) -> tuple[type[TaskFailed], tuple[str, str, str, str]]:
        return type(self), (self.error_type, self.message, self.traceback, self.reason)


class TaskCancelled(FairquedError):
    """The task was cancelled."""


class ResultExpired(FairquedError):
    """The task finished, but its result is no longer kept, or was never stored."""


class InvalidResult(FairquedError, ValueError):
    """The stored result does not fit the return annotation of the function."""


class ResultTimeout(FairquedError, TimeoutError):
    """The task did not end within timeout_seconds."""


class RetryTask(FairquedError):
    """The task asks for another attempt."""

    def __init__(self, message: str | None = None, *, delay_seconds: float | None = None) -> None:
        """To be raised in a task; `delay_seconds` takes the place of its backoff."""
        super().__init__(message)
        self.delay_seconds = delay_seconds


class WorkerGone(FairquedError):
    """This worker is not registered, or was declared dead: its tasks belong to others now."""


class LateClaim(FairquedError):
    """A pop with a number below the worker's last claim: a late copy of an older call."""


class SchemaTooNew(FairquedError):
    """The namespace was written by a newer fairqued than this one: upgrade this side first."""


class CorruptRecord(FairquedError):
    """A record in Redis cannot be read."""


class BadSignature(FairquedError):
    """A task is not signed with a key that this worker has."""


class ScriptError(FairquedError):
    """A Lua script failed in a way that nobody foresaw: this is a bug in fairqued."""


class Interruption(BaseException):
    """The task was interrupted."""

    def __str__(self) -> str:
        return super().__str__() or " ".join((type(self).__doc__ or "").split())


class TaskTimeout(Interruption):
    """The task ran for longer than its timeout_seconds."""


class TaskInterrupted(Interruption):
    """The task was cancelled, or its worker has to stop."""


REFUSALS: dict[str, type[FairquedError]] = {
    "DUPLICATE": DuplicateTask,
    "WORKERGONE": WorkerGone,
    "LATECLAIM": LateClaim,
    "SCHEMA": SchemaTooNew,
}
"""The first word of a script's refusal, and the class it is raised as."""
