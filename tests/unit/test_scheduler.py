import logging
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from fairqued.daemon.gate import ForkGate
from fairqued.errors import NotAllowed, QueueUnavailable, ScriptError
from fairqued.scheduler.scheduler import Settings, TaskScheduler
from fairqued.store import Store

SETTINGS = Settings(lease_us=15_000_000, finished=(1, 1), failed=(1, 1), dedup_us=1)


class FakeStore:
    """A store whose calls are counted, and fail as the test says."""

    def __init__(self) -> None:
        self.errors: dict[str, Exception] = {}
        self.calls: list[str] = []
        self.living: list[str] = []

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if error := self.errors.get(name):
            raise error

    def tick(self, _lease_us: int, _silence_us: int, living: list[str]) -> tuple[bool, int, list[str]]:
        self.living = living
        self._call("tick")
        return True, 0, []

    def promote(self) -> tuple[int, float | None]:
        self._call("promote")
        return 0, None

    def trim(self, *_: Any) -> tuple[int, int]:
        self._call("trim")
        return 0, 0

    def reclaim(self, worker_id: str, _why: str) -> tuple[int, int]:
        self._call(worker_id)
        return 1, 0


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def scheduler(store: FakeStore) -> TaskScheduler:
    return TaskScheduler(cast("Store", store), ForkGate(), SETTINGS, living=lambda: ["w1", "w2"])


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    with caplog.at_level(logging.INFO, "fairqued.scheduler"):
        yield lambda: [record.getMessage() for record in caplog.records]


def attempt(scheduler: TaskScheduler, name: str) -> None:
    (chore,) = (chore for chore in scheduler._chores if chore.name == name)
    scheduler._attempt(name, chore.run_once)


def test_ticks_vouch_for_the_living(scheduler: TaskScheduler, store: FakeStore) -> None:
    attempt(scheduler, "tick")
    assert store.living == ["w1", "w2"]


def test_the_tasks_of_the_dead_are_put_back(scheduler: TaskScheduler, store: FakeStore) -> None:
    done: list[str] = []
    scheduler.put_back("dead1", "death", done.append)
    scheduler.put_back("dead2", "death", done.append)
    assert scheduler.finish_put_back(1) == []
    assert done == store.calls == ["dead1", "dead2"]


def test_without_redis_they_are_named(scheduler: TaskScheduler, store: FakeStore) -> None:
    store.errors["dead"] = QueueUnavailable("away")
    scheduler.put_back("dead", "death", lambda _: None)
    assert scheduler.finish_put_back(0.1) == ["dead"]
    store.errors.clear()
    assert scheduler.finish_put_back(1) == []


def test_one_that_cannot_be_put_back_does_not_hold_up_the_others(scheduler: TaskScheduler, store: FakeStore) -> None:
    done: list[str] = []
    store.errors["cursed"] = ScriptError("a bug")
    scheduler.put_back("cursed", "death", done.append)
    scheduler.put_back("dead", "death", done.append)
    assert scheduler.finish_put_back(1) == ["cursed"]
    assert done == ["dead"]


@pytest.mark.parametrize("error", [QueueUnavailable("Redis is away"), NotAllowed("Redis wants a password")])
def test_an_outage_is_told_once_and_its_end_once(
    scheduler: TaskScheduler, store: FakeStore, said: Callable[[], list[str]], error: Exception
) -> None:
    store.errors |= {"tick": error, "promote": error}
    for _ in range(5):
        attempt(scheduler, "tick")
        attempt(scheduler, "promote")
    assert scheduler.redis_state()["reachable"] is False
    assert said() == [str(error)]
    store.errors.clear()
    attempt(scheduler, "tick")
    attempt(scheduler, "tick")
    assert scheduler.redis_state() == {"reachable": True, "away_seconds": 0}
    assert len(said()) == 2
    assert said()[1].startswith("Redis is back after")


def test_any_other_error_is_told_once_and_again_when_it_comes_back(
    scheduler: TaskScheduler, store: FakeStore, said: Callable[[], list[str]]
) -> None:
    for _ in range(2):
        store.errors["trim"] = ZeroDivisionError()
        for _ in range(5):
            attempt(scheduler, "trim")
        store.errors.clear()
        attempt(scheduler, "trim")
    assert said() == ["trim failed, and is tried again and again"] * 2


def test_a_scheduler_for_its_own_workers_alone_leaves_the_chores_to_others(store: FakeStore) -> None:
    settings = Settings(lease_us=1, finished=(1, 1), failed=(1, 1), dedup_us=1, only_own_workers=True)
    scheduler = TaskScheduler(cast("Store", store), ForkGate(), settings, living=list)
    assert [chore.name for chore in scheduler._chores] == ["tick"]


def test_the_thread_works_until_it_is_told_to_stop(scheduler: TaskScheduler, store: FakeStore) -> None:
    assert not scheduler.is_alive()
    scheduler.start()
    assert scheduler.is_alive()
    scheduler.stop()
    assert not scheduler.is_alive()
    assert set(store.calls) <= {"tick", "promote", "trim"}
