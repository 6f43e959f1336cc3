"""What can be seen of a namespace at one moment: a task, and the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from fairqued.record import Record
from fairqued.state import Priority, Reason, TaskState


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """What is known of a task at one moment. Times are aware datetimes of the server's clock."""

    task_id: str
    user_id: str
    queue: str
    state: TaskState
    priority: Priority
    func: str | None
    payload: Any
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    meta: Mapping[str, str]
    attempts: int
    failures: int
    max_retries: int
    cancel_asked: bool
    reason: Reason | None
    error_type: str | None
    error_message: str | None
    enqueued_at: datetime
    due_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @classmethod
    def of(cls, record: Record) -> TaskInfo:
        """What a record tells. Raises CorruptRecord if its spec cannot be read."""
        spec, error = record.read_spec(), record.read_error()
        return cls(
            task_id=record.task_id, user_id=record.user_id, queue=record.queue, state=record.state,
            priority=record.priority, func=spec.get("func"), payload=spec.get("payload"), args=spec.get("args", ()),
            kwargs=spec.get("kwargs", {}), meta=spec.get("meta", {}), attempts=record.attempts,
            failures=record.failures, max_retries=spec.get("max_retries", 0), cancel_asked=record.cancel_asked,
            reason=record.reason, error_type=error.get("type"), error_message=error.get("message"),
            enqueued_at=_datetime(record.enqueued_at), due_at=_datetime(record.due),
            started_at=_datetime(record.started_at) if record.started_at else None,
            ended_at=_datetime(record.ended_at) if record.ended_at else None,
        )  # fmt: skip


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds_of(moment: datetime) -> int:
    """An aware datetime as Redis keeps it: microseconds since the epoch."""
    return (moment - _EPOCH) // _MICROSECOND


def _datetime(microseconds: float) -> datetime:
    return _EPOCH + microseconds * _MICROSECOND


@dataclass(frozen=True, slots=True)
class UserDepth:
    """A user with waiting work in a queue."""

    queue: str
    user_id: str
    waiting: int
    running: int
    is_parked: bool


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A registered worker; `lease_seconds` is what is left of its lease."""

    worker_id: str
    lease_seconds: float
    held: int
    info: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class QueueStats:
    """The namespace at one moment."""

    at: datetime
    depth: Mapping[str, int]
    scheduled: int
    started: int
    finished: int
    failed: int
    cancelled: int
    counters: Mapping[str, int]
    users: Sequence[UserDepth]
    workers: Sequence[WorkerInfo]

    @classmethod
    def of(cls, answer: Sequence[Any]) -> QueueStats:
        """Decode the answer of stats.lua."""
        now, counters, depth, (scheduled, finished, failed, cancelled), workers, users = answer
        rows = [
            WorkerInfo(_text(worker), max(0.0, (float(end) - now) / 1e6), held, _object(info))
            for worker, end, held, info in workers
        ]
        return cls(
            at=_datetime(now), depth=_numbers(depth), scheduled=scheduled, started=sum(row.held for row in rows),
            finished=finished, failed=failed, cancelled=cancelled, counters=_numbers(counters),
            users=[
                UserDepth(_text(queue), _text(user), waiting, running, bool(parked))
                for queue, user, waiting, running, parked in users
            ],
            workers=rows,
        )  # fmt: skip


def _numbers(flat: Sequence[bytes]) -> dict[str, int]:
    return {_text(name): int(number) for name, number in zip(flat[::2], flat[1::2], strict=True)}


def _text(raw: bytes) -> str:
    """A name as stored; what is not UTF-8 was written by somebody else, and is shown, not refused."""
    return raw.decode(errors="backslashreplace")


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
