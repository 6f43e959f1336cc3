"""Running one task, as named steps over an `Outcome`.

attempt → outcome → completion: the first step runs user code, the last one says what Redis is told.
"""

from __future__ import annotations

import logging
import time
import traceback
from contextvars import Context
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, assert_never

from fairqued.context import CurrentTask, enter_task, logger
from fairqued.errors import InvalidTask
from fairqued.lease import Completion, StartedTask, encode_result
from fairqued.state import Reason
from fairqued.worker.handler import BadArguments, Result, TaskHandler, UnknownFunction

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
class Refused:
    """The task can never run, or its result can never be stored: another attempt would not help."""

    reason: Reason
    error: BaseException


@dataclass(frozen=True, slots=True)
class NotHere:
    """This worker has no code for the task; another one may have it."""

    error: UnknownFunction


Outcome = Returned | Raised | Refused | NotHere


class Executor:
    """Runs tasks with a handler. Its `run` never raises: whatever user code does becomes an outcome."""

    def __init__(self, handler: TaskHandler, *, worker_id: str, unknown_function_seconds: float) -> None:
        self._handler = handler
        self._worker_id = worker_id
        self._unknown_function_seconds = unknown_function_seconds

    def run(self, task: StartedTask) -> Completion:
        """Run one task in a fresh context, and say how it ended."""
        return self._completion(task, Context().run(self._outcome, task))

    def _outcome(self, task: StartedTask) -> Outcome:
        enter_task(self._current(task))
        try:
            returned = self._handler.handle(task)
        except UnknownFunction as error:
            return NotHere(error)
        except BadArguments as error:
            return Refused(Reason.BAD_ARGUMENTS, error)
        except BaseException as error:  # noqa: BLE001 - SystemExit of a task ends the task, not the worker
            return Raised(error, self._handler.is_retryable(task, error))
        return self._encoded(returned)

    def _encoded(self, returned: Any) -> Outcome:
        result = returned if isinstance(returned, Result) else Result(returned)
        try:
            return Returned(encode_result(result.value, result.annotation))
        except InvalidTask as error:
            return Refused(Reason.ERROR, error)

    def _completion(self, task: StartedTask, outcome: Outcome) -> Completion:
        match outcome:
            case Returned(result):
                return task.finished(result)
            case Raised(error, is_retryable):
                told = describe(error)
                _log_failure(task, error, will_retry=is_retryable and task.retries_left > 0)
                return task.retried(told) if is_retryable and task.retries_left else task.failed(Reason.ERROR, told)
            case Refused(reason, error):
                _log_failure(task, error, will_retry=False)
                return task.failed(reason, describe(error))
            case NotHere(error):
                return self._hand_back(task, error)
            case _:
                assert_never(outcome)

    def _hand_back(self, task: StartedTask, error: UnknownFunction) -> Completion:
        """Wait for a worker that has the code, longer each time, but not for ever. Times are the server's."""
        now = task.record.started_at / 1e6
        since = task.record.read_error().get("unknown_since") or now
        told = {"type": "UnknownFunction", "message": str(error), "unknown_since": since}
        if now - since >= self._unknown_function_seconds:
            logger.error("task %s: %s", task.task_id, error)
            return task.failed(Reason.UNKNOWN_FUNCTION, told)
        logger.warning("task %s handed back: %s", task.task_id, error)
        return task.handed_back(told, min(_LONGEST_HAND_BACK_SECONDS, max(_FIRST_HAND_BACK_SECONDS, now - since)))

    def _current(self, task: StartedTask) -> CurrentTask:
        about = {"task": task.task_id, "user": task.user_id, "attempt": task.attempt, "worker": self._worker_id}
        return CurrentTask(
            task_id=task.task_id,
            user_id=task.user_id,
            attempt=task.attempt,
            retries_left=task.retries_left,
            meta=MappingProxyType(dict(task.meta)),
            logger=logging.LoggerAdapter(logger, about),
            _cancelled=task.cancelled,
            _lease_lost=task.lease_lost,
        )


def describe(error: BaseException) -> dict[str, Any]:
    """An exception as stored with a task, also one whose `__str__` raises."""
    try:
        message = str(error)
    except Exception as second:  # noqa: BLE001 - user code
        message = f"(its text cannot be shown: {type(second).__name__})"
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        text = "".join(traceback.format_exception(error))
    except Exception:  # noqa: BLE001 - user code, as above
        text = "".join(traceback.format_tb(error.__traceback__))
    return {"type": name, "message": message, "traceback": text, "at": time.time()}


def _log_failure(task: StartedTask, error: BaseException, *, will_retry: bool) -> None:
    what = "will be tried again" if will_retry else "failed"
    logger.warning("task %s of %s %s: %s", task.task_id, task.user_id, what, describe(error)["type"],
                   extra={"task": task.task_id, "user": task.user_id, "attempt": task.attempt})  # fmt: skip
