"""The state machine of a task, declared once.

The Lua scripts carry the same table in `lua/lib/state.lua`; a test compares the two.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class TaskState(StrEnum):
    """Where a task stands, and who moves it on."""

    QUEUED = "queued"  # waits for a worker; pop takes it, cancel ends it
    DEFERRED = "deferred"  # waits for its parents; their end settles it
    SCHEDULED = "scheduled"  # waits for its time or its retry; promote moves it to QUEUED
    STARTED = "started"  # a worker holds it; finish, fail or reclaim ends the attempt
    FINISHED = "finished"  # final: its result stands
    FAILED = "failed"  # final, until an operator's retry
    CANCELLED = "cancelled"  # final, until an operator's retry

    @property
    def is_final(self) -> bool:
        """Whether the task has ended."""
        return self in FINAL_STATES


FINAL_STATES = frozenset({TaskState.FINISHED, TaskState.FAILED, TaskState.CANCELLED})

ALLOWED_MOVES: dict[TaskState, frozenset[TaskState]] = {
    TaskState.QUEUED: frozenset({TaskState.STARTED, TaskState.FAILED, TaskState.CANCELLED}),
    TaskState.DEFERRED: frozenset({TaskState.QUEUED, TaskState.SCHEDULED, TaskState.FAILED, TaskState.CANCELLED}),
    TaskState.SCHEDULED: frozenset({TaskState.QUEUED, TaskState.DEFERRED, TaskState.FAILED, TaskState.CANCELLED}),
    TaskState.STARTED: frozenset(
        {TaskState.QUEUED, TaskState.SCHEDULED, TaskState.FINISHED, TaskState.FAILED, TaskState.CANCELLED}
    ),
    TaskState.FINISHED: frozenset(),
    TaskState.FAILED: frozenset({TaskState.QUEUED, TaskState.DEFERRED}),
    TaskState.CANCELLED: frozenset({TaskState.QUEUED, TaskState.DEFERRED}),
}
"""From each state, the states that a script may move a task to."""


class Priority(IntEnum):
    """How early a task runs among the tasks of its own user.

    The five ordinary priorities are head starts in time (`fairness.head_start_seconds`), so every task ages and
    none starves. CRITICAL tasks wait in a FIFO of their own, before the user's other work.
    """

    VERY_LOW = 0
    LOW = 1
    NORMAL = 2
    HIGH = 3
    VERY_HIGH = 4
    CRITICAL = 5


class Reason(StrEnum):
    """Why a task is FAILED."""

    ERROR = "error"
    TIMEOUT = "timeout"
    POISONED = "poisoned"
    LOST = "lost"
    CORRUPT = "corrupt"
    UNKNOWN_FUNCTION = "unknown_function"
    BAD_ARGUMENTS = "bad_arguments"
    BAD_SIGNATURE = "bad_signature"
    EXPIRED = "expired"
    PARENT_FAILED = "parent_failed"
