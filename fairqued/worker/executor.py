"""Running one task, as named steps over an `Outcome`.

attempt → outcome → completion: the first step runs user code, the last one says what Redis is told.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Mapping, MutableMapping
from contextvars import Context
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, assert_never

from fairqued.context import CurrentTask, enter_task, logger
from fairqued.errors import InvalidTask
from fairqued.lease import Completion, StartedTask, encode_result
from fairqued.state import Reason
from fairqued.worker.handler import BadArguments, Result, TaskHandler, UnknownFunction

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
        try:
            return self._completion(task, Context().run(self._outcome, task))
        except BaseException as error:  # noqa: BLE001 - a hook of user code raised, or a damaged record was met
            logger.exception("task %s: its end could not be dealt with", task.task_id, extra=_about(task))
            return task.failed(Reason.ERROR, describe(error))

    def _outcome(self, task: StartedTask) -> Outcome:
        enter_task(self._current(task))
        try:
            returned = self._handler.handle(task)
        except UnknownFunction as error:
            return NotHere(error)
        except BadArguments as error:
            return Refused(Reason.BAD_ARGUMENTS, error)
        except BaseException as error:  # noqa: BLE001 - SystemExit of a task ends the task, not the worker
            return Raised(error, is_retryable=self._handler.is_retryable(task, error))
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
                will_retry = is_retryable and task.retries_left > 0
                _log_failure(task, told, will_retry=will_retry)
                return task.retried(told) if will_retry else task.failed(Reason.ERROR, told)
            case Refused(reason, error):
                told = describe(error)
                _log_failure(task, told, will_retry=False)
                return task.failed(reason, told)
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
            logger.error("task %s failed: %s", task.task_id, error, extra=_about(task))
            return task.failed(Reason.UNKNOWN_FUNCTION, told)
        logger.warning("task %s handed back: %s", task.task_id, error, extra=_about(task))
        return task.handed_back(told, min(_LONGEST_HAND_BACK_SECONDS, max(_FIRST_HAND_BACK_SECONDS, now - since)))

    def _current(self, task: StartedTask) -> CurrentTask:
        return CurrentTask(
            task_id=task.task_id,
            user_id=task.user_id,
            attempt=task.attempt,
            retries_left=task.retries_left,
            meta=MappingProxyType(dict(task.meta)),
            logger=_TaskLogger(logger, {**_about(task), "worker": self._worker_id}),
            _cancelled=task.cancelled,
            _lease_lost=task.lease_lost,
        )


class _TaskLogger(logging.LoggerAdapter[logging.Logger]):
    """Adds the task to each record, beside the `extra` of the call (what Python 3.13 calls `merge_extra`)."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, {**kwargs, "extra": {**(kwargs.get("extra") or {}), **(self.extra or {})}}


def _about(task: StartedTask) -> dict[str, object]:
    return {"task": task.task_id, "user": task.user_id, "attempt": task.attempt}


def describe(error: BaseException) -> dict[str, Any]:
    """An exception as stored with a task, also one whose `__str__` raises."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return {"type": name, "message": _message(error), "traceback": _traceback(error), "at": time.time()}


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


def _log_failure(task: StartedTask, told: Mapping[str, Any], *, will_retry: bool) -> None:
    what = "will be tried again" if will_retry else "failed"
    message = " ".join(told["message"][:_MOST_LOGGED].split())
    logger.warning(
        "task %s of %s %s: %s: %s", task.task_id, task.user_id, what, told["type"], message, extra=_about(task)
    )
