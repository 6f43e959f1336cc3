"""Running one task, as named steps over an `Outcome`.

attempt → outcome → completion: the first step runs user code, the last one says what Redis is told.
"""

from __future__ import annotations

import time
import traceback
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, assert_never

from fairqued.context import CurrentTask, enter_task, logger
from fairqued.crash_points import crash_point
from fairqued.errors import Interruption, InvalidTask, RetryTask, TaskTimeout
from fairqued.lease import Completion, StartedTask, encode_result
from fairqued.record import reason_number
from fairqued.state import Reason
from fairqued.store import Ended
from fairqued.worker.handler import BadArguments, Result, TaskHandler, UnknownFunction
from fairqued.worker.watch import Slot, WorkerStopping

_MOST_LOGGED = 500
_FIRST_HAND_BACK_SECONDS, _LONGEST_HAND_BACK_SECONDS = 1.0, 30.0


@dataclass(frozen=True, slots=True)
class Returned:
    """The task came to its end; `result` is encoded."""

    result: bytes


@dataclass(frozen=True, slots=True)
class Raised:
    """The task raised."""

    error: BaseException
    is_retryable: bool


@dataclass(frozen=True, slots=True)
class AskedForRetry:
    """The task raised RetryTask."""

    error: RetryTask


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The task was interrupted when its time was over."""

    error: TaskTimeout


@dataclass(frozen=True, slots=True)
class Stopped:
    """The task was interrupted because its worker has to stop."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The task can never run, or its result can never be stored: another attempt would not help."""

    reason: Reason
    error: BaseException


@dataclass(frozen=True, slots=True)
class NotHere:
    """This worker has no code for the task; another one may have it."""

    error: UnknownFunction


Outcome = Returned | Raised | AskedForRetry | TimedOut | Stopped | Refused | NotHere


class Executor:
    """Runs tasks with a handler. Its `run` never raises: whatever user code does becomes an outcome."""

    def __init__(self, handler: TaskHandler, *, worker_id: str, unknown_function_seconds: float) -> None:
        self._handler = handler
        self._worker_id = worker_id
        self._unknown_function_seconds = unknown_function_seconds

    def run(self, task: StartedTask, slot: Slot) -> Completion | None:
        """Run one task in a fresh context, and say how it ended; None if it was stopped, to run again elsewhere."""
        try:
            slot.begin(task)
            return self._completion(task, Context().run(self._outcome, task, slot))
        except BaseException as error:  # noqa: BLE001 - a hook of user code raised, or a damaged record was met
            logger.exception("task %s: its end could not be dealt with", task.task_id, extra=_about(task))
            return task.failed(Reason.ERROR, describe(error))
        finally:
            slot.end()

    def forced_end(self, task: StartedTask, kind: type[Interruption], error: bytes) -> Ended:
        """How a task ends whose process is killed since it did not obey; `error` is JSON."""
        will_retry = False
        with suppress(Exception):  # user code may decide
            will_retry = kind is TaskTimeout and self._retries(task, TaskTimeout())
        if will_retry:
            return Ended(task.task_id, task.record.fence, "retry", int(task.backoff_seconds() * 1e6), error)
        return Ended(task.task_id, task.record.fence, "fail", reason_number(Reason.TIMEOUT), error)

    def _outcome(self, task: StartedTask, slot: Slot) -> Outcome:
        enter_task(self._current(task))
        crash_point("in_task")
        try:
            returned = self._handler.run(task)
        except UnknownFunction as error:
            return NotHere(error)
        except BadArguments as error:
            return Refused(Reason.BAD_ARGUMENTS, error)
        except RetryTask as error:
            return AskedForRetry(error)
        except TaskTimeout as error:
            return TimedOut(error)
        except BaseException as error:  # noqa: BLE001 - SystemExit of a task ends the task, not the worker
            return self._raised(task, slot, error)
        return self._encoded(returned)

    def _raised(self, task: StartedTask, slot: Slot, error: BaseException) -> Outcome:
        if slot.interrupted_by is WorkerStopping:  # also if its cleaning up has failed
            return Stopped()
        return Raised(error, is_retryable=self._handler.is_retryable(task, error))

    def _encoded(self, returned: Any) -> Outcome:
        result = returned if isinstance(returned, Result) else Result(returned)
        try:
            return Returned(encode_result(result.value, result.annotation))
        except InvalidTask as error:
            return Refused(Reason.ERROR, error)

    def _completion(self, task: StartedTask, outcome: Outcome) -> Completion | None:  # noqa: PLR0911 - one an outcome
        match outcome:
            case Returned(result):
                return task.finished(result)
            case Raised(error, is_retryable):
                return _after_failure(task, Reason.ERROR, error, will_retry=is_retryable and task.retries_left > 0)
            case AskedForRetry(error):
                return _after_failure(
                    task, Reason.ERROR, error, will_retry=task.retries_left > 0, delay_seconds=error.delay_seconds
                )
            case TimedOut(error):
                return _after_failure(task, Reason.TIMEOUT, error, will_retry=self._retries(task, error))
            case Refused(reason, error):
                return _after_failure(task, reason, error, will_retry=False)
            case NotHere(error):
                return self._hand_back(task, error)
            case Stopped():
                return None
            case _:
                assert_never(outcome)

    def _retries(self, task: StartedTask, error: BaseException) -> bool:
        return task.retries_left > 0 and self._handler.is_retryable(task, error)

    def _hand_back(self, task: StartedTask, error: UnknownFunction) -> Completion:
        """Wait for a worker that has the code, longer each time, but not for ever. Times are the server's."""
        now = task.record.started_at / 1e6
        since = task.record.read_error().get("unknown_since") or now
        told = {"type": "UnknownFunction", "message": str(error), "unknown_since": since}
        if now - since >= self._unknown_function_seconds:
            logger.error("task %s failed: %s", task.task_id, error, extra=_about(task))
            return task.failed(Reason.UNKNOWN_FUNCTION, told)
        logger.warning("task %s handed back: %s", task.task_id, error, extra=_about(task))
        return task.handed_back(told, min(_LONGEST_HAND_BACK_SECONDS, max(_FIRST_HAND_BACK_SECONDS, now - since)))

    def _current(self, task: StartedTask) -> CurrentTask:
        current = object.__new__(CurrentTask)  # the `__init__` of a frozen dataclass takes its time
        vars(current).update(
            task_id=task.task_id,
            user_id=task.user_id,
            attempt=task.attempt,
            retries_left=task.retries_left,
            meta=MappingProxyType(task.meta),
            _worker_id=self._worker_id,
            _cancelled=task.cancelled,
            _lease_lost=task.lease_lost,
        )
        return current


def _about(task: StartedTask) -> dict[str, object]:
    return {"task": task.task_id, "user": task.user_id, "attempt": task.attempt}


def describe(error: BaseException) -> dict[str, Any]:
    """An exception as stored with a task, also one whose `__str__` raises."""
    return {"type": _name(type(error)), "message": _message(error), "traceback": _traceback(error), "at": time.time()}


def _name(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as second:  # noqa: BLE001 - user code
        return f"(its text cannot be shown: {type(second).__name__})"


def _traceback(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except BaseException:  # noqa: BLE001 - user code
        return "".join(traceback.format_tb(error.__traceback__))


def _after_failure(
    task: StartedTask, reason: Reason, error: BaseException, *, will_retry: bool, delay_seconds: float | None = None
) -> Completion:
    """Say so, and try again or not."""
    told = describe(error)
    what = "was cancelled" if task.cancelled.is_set() else "will be tried again" if will_retry else "failed"
    message = " ".join(told["message"][:_MOST_LOGGED].split())
    logger.warning(
        "task %s of %s %s: %s: %s", task.task_id, task.user_id, what, told["type"], message, extra=_about(task)
    )
    return task.retried(told, delay_seconds) if will_retry else task.failed(reason, told)
