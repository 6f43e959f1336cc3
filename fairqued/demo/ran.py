"""What became of each task of the demo, and what first come, first served would have made of the same tasks."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from fairqued.demo.tasks import Counted
from fairqued.errors import FairquedError
from fairqued.queue import TaskHandle

_RESULT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Ran:
    """One task after its end. Times are seconds of the server's clock; `started_at` is that of its last attempt."""

    user_id: str
    path: str
    counted: Counted | None
    attempts: int
    enqueued_at: float
    started_at: float
    ended_at: float
    problem: str = ""

    @property
    def wait(self) -> float:
        """From enqueue to start."""
        return self.started_at - self.enqueued_at

    @property
    def duration(self) -> float:
        """The slot time of its last attempt."""
        return self.ended_at - self.started_at


def look_up(path: str, handle: TaskHandle[Counted]) -> Ran:
    """What became of the task that was to count `path`."""
    counted, problem = None, ""
    try:
        counted = handle.result(_RESULT_SECONDS)
    except FairquedError as error:
        problem = str(error)
    info = handle.info()
    started = info.started_at or info.enqueued_at
    ended = info.ended_at or started
    return Ran(
        info.user_id, path, counted, info.attempts, info.enqueued_at.timestamp(), started.timestamp(),
        ended.timestamp(), problem,
    )  # fmt: skip


def waits_if_first_come_first_served(tasks: Sequence[Ran], slots: int) -> list[float]:
    """How long each of `tasks`, given in the order they were enqueued, would have waited.

    Each task takes the slot that is free first, and holds it for as long as it did in fact.
    """
    free_at = [0.0] * slots
    waits: dict[int, float] = {}
    for index in sorted(range(len(tasks)), key=lambda index: tasks[index].enqueued_at):
        task = tasks[index]
        start = max(task.enqueued_at, heapq.heappop(free_at))
        heapq.heappush(free_at, start + task.duration)
        waits[index] = start - task.enqueued_at
    return [waits[index] for index in range(len(tasks))]


@dataclass(frozen=True, slots=True)
class Shares:
    """Of the slot time while several users had tasks waiting, the part each of them got."""

    seconds: float
    parts: dict[str, float]


def shares_while_all_wait(tasks: Sequence[Ran], users: Sequence[str]) -> Shares:
    """From the moment the last of `users` came until the first of them had nothing waiting any more."""
    begin = max(min(task.enqueued_at for task in tasks if task.user_id == user) for user in users)
    end = min(max(task.started_at for task in tasks if task.user_id == user) for user in users)
    got = dict.fromkeys(users, 0.0)
    for task in tasks:
        if task.user_id in got:
            got[task.user_id] += max(0.0, min(end, task.ended_at) - max(begin, task.started_at))
    whole = sum(got.values()) or 1.0
    return Shares(max(0.0, end - begin), {user: time / whole for user, time in got.items()})
