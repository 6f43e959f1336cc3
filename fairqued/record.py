"""A task's record as it stands in Redis: one string of a fixed header, user, queue, spec and error.

The header is the twin of `lua/lib/record.lua`. Why one string: docs/adr/0001-record-layout.md.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, NamedTuple

import orjson

from fairqued.errors import CorruptRecord, SchemaTooNew
from fairqued.keys import hidden_queue
from fairqued.state import Priority, Reason, TaskState

HEADER = Struct("<cBcBBBBBBHHIIIdddd8sHBHI")
FENCE_FIELD = 11
MAGIC, SCHEMA_VERSION = b"F", 2
CANCEL_ASKED, HAS_RESULT, OWN_ID, HIDDEN = 1, 2, 4, 8
_HIDDEN_SINCE = 2
_YEAR_1, _YEAR_9999 = -62e15, 253e15

STATE_CODES: dict[TaskState, str] = {
    TaskState.QUEUED: "q",
    TaskState.DEFERRED: "d",
    TaskState.SCHEDULED: "s",
    TaskState.STARTED: "r",
    TaskState.FINISHED: "f",
    TaskState.FAILED: "x",
    TaskState.CANCELLED: "c",
}
_STATE_OF = {code.encode(): state for state, code in STATE_CODES.items()}
_REASONS = list(Reason)


def reason_number(reason: Reason) -> int:
    """How a reason stands in a record; 0 is none."""
    return _REASONS.index(reason) + 1


class Record(NamedTuple):
    """A decoded record. Times are microseconds of the server's clock, 0 where it did not happen yet."""

    task_id: str
    state: TaskState
    cancel_asked: bool
    has_result: bool
    is_hidden: bool
    priority: Priority
    reason: Reason | None
    suspicion: int
    crashes: int
    losses: int
    attempts: int
    failures: int
    fence: int
    settled: int
    holder: int
    enqueued_at: float
    due: float
    started_at: float
    ended_at: float
    nonce: bytes
    user_id: str
    queue: str
    spec: bytes
    error: bytes

    @classmethod
    def parse(cls, task_id: str, raw: bytes) -> Record:
        """Decode `raw`.

        Raises:
            SchemaTooNew: a newer fairqued wrote it.
            CorruptRecord: it cannot be read.
        """
        if raw[:1] == MAGIC and len(raw) > 1 and raw[1] > SCHEMA_VERSION:
            versions = f"its record has schema version {raw[1]}, this side knows {SCHEMA_VERSION}"
            raise SchemaTooNew(f"task {task_id}: {versions}")
        if len(raw) < HEADER.size or raw[:1] != MAGIC or raw[1] == 0:
            raise CorruptRecord(f"task {task_id}: its record has no valid header")
        try:
            return cls._unpack(task_id, raw)
        except (KeyError, ValueError, IndexError) as error:
            raise CorruptRecord(f"task {task_id}: its record cannot be read: {error!r}") from error

    @classmethod
    def _unpack(cls, task_id: str, raw: bytes) -> Record:
        (_, version, state, flags, priority, reason, suspicion, crashes, losses, attempts, failures, fence, settled,
         holder, enqueued_at, due, started_at, ended_at, nonce, user_length, queue_length, error_length, spec_length,
         ) = HEADER.unpack_from(raw)  # fmt: skip
        user_end = HEADER.size + user_length
        queue_end = user_end + queue_length
        spec_end = queue_end + spec_length
        if spec_end + error_length != len(raw):
            raise ValueError(f"{len(raw)} bytes where the header says {spec_end + error_length}")
        if flags & HIDDEN and version < _HIDDEN_SINCE:
            raise ValueError(f"it is hidden, which version {version} does not know")
        if not all(_YEAR_1 < time < _YEAR_9999 for time in (enqueued_at, due, started_at, ended_at)):
            raise ValueError("a time outside the years 1 to 9999")
        return cls(
            task_id, _STATE_OF[state], bool(flags & CANCEL_ASKED), bool(flags & HAS_RESULT), bool(flags & HIDDEN),
            Priority(priority), _REASONS[reason - 1] if reason else None, suspicion, crashes, losses, attempts,
            failures, fence, settled, holder, enqueued_at, due, started_at, ended_at, nonce,
            raw[HEADER.size : user_end].decode(), raw[user_end:queue_end].decode(), raw[queue_end:spec_end],
            raw[spec_end:],
        )  # fmt: skip

    @property
    def waits_in(self) -> str:
        """The queue in which it waits when it waits: `queue`, or the hidden one beside it."""
        return hidden_queue(self.queue) if self.is_hidden else self.queue

    def read_spec(self) -> dict[str, Any]:
        """The task as it was enqueued: `func`, `args`, `kwargs` or `payload`, and the options that differ.

        Raises CorruptRecord if it is not a JSON object.
        """
        try:
            spec = orjson.loads(self.spec) if self.spec else {}
        except orjson.JSONDecodeError as error:
            raise CorruptRecord(f"task {self.task_id}: its spec is not JSON: {error}") from error
        if not isinstance(spec, dict):
            raise CorruptRecord(f"task {self.task_id}: its spec is not a JSON object")
        return spec

    def read_error(self) -> dict[str, Any]:
        """What the last failed attempt left: `type`, `message`, `traceback`; empty if there was none."""
        try:
            error = orjson.loads(self.error) if self.error else {}
        except orjson.JSONDecodeError:
            error = {"type": "CorruptRecord", "message": "the error text cannot be read"}
        return error if isinstance(error, dict) else {}
