"""G8, seen from outside: users with short and long tasks get the worker time that their weights say."""

import random
import time
from collections.abc import Iterable

import pytest

from fairqued import Task, TaskQueue
from fairqued.doctor.snapshot import Snapshot, read_snapshot
from tests.daemon.conftest import StartDaemon
from tests.support.process_tasks import sleep

pytestmark = pytest.mark.process

SLOTS, SECONDS = 8, 12
WEIGHTS = {"5ms": 1, "50ms": 1, "200ms": 1, "1s": 1, "mixed": 3}
DURATIONS = {"5ms": [0.005], "50ms": [0.05], "200ms": [0.2], "1s": [1.0], "mixed": [0.005, 0.05, 0.2, 1.0]}
WANTED_INDEX = 0.98


def test_slot_seconds_follow_the_weights(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    for user in WEIGHTS:
        queue.enqueue_many(backlog(user), user_id=user, store_result=False)
    start_daemon(
        pools=[{"name": "main", "processes": 2, "threads": SLOTS // 2}],
        users={user: {"weight": weight} for user, weight in WEIGHTS.items()},
    )
    client = queue._store.connection.client
    begin = _microseconds(client.time())
    time.sleep(SECONDS)
    end = _microseconds(client.time())
    snapshot = read_snapshot(client, queue.namespace)
    received = slot_seconds(snapshot, begin, end)
    waiting = {user: sum(len(ids) for (_, of), ids in snapshot.waiting.items() if of == user) for user in WEIGHTS}
    shares = {user: received[user] / weight for user, weight in WEIGHTS.items()}
    index = jain(shares.values())
    print(f"\n{'user':<6} weight  slot-seconds  per weight  still waiting")  # noqa: T201
    for user, weight in WEIGHTS.items():
        print(f"{user:<6} {weight:>6} {received[user]:>13.2f} {shares[user]:>11.2f} {waiting[user]:>14}")  # noqa: T201
    print(f"Jain's index {index:.4f}; {sum(received.values()) / SLOTS / SECONDS:.0%} of the slots' time")  # noqa: T201
    assert all(waiting.values()), "everybody was backlogged all the time"
    assert index >= WANTED_INDEX


def backlog(user: str) -> list[Task[None]]:
    """More than a user can get: at most all that its weight gives, half as much again."""
    chosen = random.Random(user)
    wanted = SLOTS * SECONDS * WEIGHTS[user] / sum(WEIGHTS.values()) * 1.5 + 10
    tasks, total = [], 0.0
    while total < wanted:
        seconds = chosen.choice(DURATIONS[user])
        tasks.append(sleep.task(seconds))
        total += seconds
    return tasks


def slot_seconds(snapshot: Snapshot, begin: float, end: float) -> dict[str, float]:
    """What each user got between two moments, as the server's clock charges it: from pop to the end of the attempt."""
    received = dict.fromkeys(WEIGHTS, 0.0)
    for task in snapshot.tasks.values():
        if task.started_at:
            received[task.user_id] += max(0.0, min(task.ended_at or end, end) - max(task.started_at, begin)) / 1e6
    return received


def jain(shares: Iterable[float]) -> float:
    """Jain's fairness index: 1 when all are equal, 1/n when one has everything."""
    values = list(shares)
    return sum(values) ** 2 / (len(values) * sum(value**2 for value in values))


def _microseconds(time_of_server: tuple[int, int]) -> float:
    seconds, microseconds = time_of_server
    return seconds * 1e6 + microseconds
