import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import pytest

from fairqued.daemon.gate import ForkGate
from fairqued.errors import NotAllowed, QueueUnavailable, ScriptError
from fairqued.scheduler.scheduler import Death, Settings, TaskScheduler
from fairqued.store import Ended, Store, Tick

LATE = 10
SETTINGS = Settings(
    lease_us=15_000_000, finished=(1, 1), failed=(1, 1), dedup_us=1, max_crashes=4, queues=("mail", "default")
)


class FakeStore:
    """A store whose calls are counted, and fail as the test says."""

    def __init__(self) -> None:
        self.errors: dict[str, Exception] = {}
        self.calls: list[str] = []
        self.living: list[str] = []
        self.ticked_at = 0.0
        self.hidden: list[str] = []
        self.reclaims: list[dict[str, Any]] = []

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if error := self.errors.get(name):
            raise error

    def tick(self, _lease_us: int, _silence_us: int, living: list[str], queues: Sequence[str]) -> Tick:
        self.living, self.ticked_at = living, time.monotonic()
        self._call("tick")
        return Tick(judged=True, put_back=0, dead=[], hidden=[queue for queue in queues if queue in self.hidden])

    def promote(self) -> tuple[int, float | None]:
        self._call("promote")
        return 0, None

    def trim(self, *_: Any) -> tuple[int, int]:
        self._call("trim")
        return 0, 0

    def held_by(self, _worker_id: str, _most: int) -> list[str]:
        return []

    def reclaim(self, worker_id: str, why: str, **rest: Any) -> tuple[int, int]:
        self._call(worker_id)
        self.reclaims.append({"why": why, **rest})
        return 1, 0


class FakeMaster:
    """What a scheduler tells its master."""

    def __init__(self) -> None:
        self.renewals: list[list[str]] = []
        self.hidden: list[str] = []
        self.done: list[str] = []
        self.renewed_at = 0.0

    def living(self) -> list[str]:
        return ["w1", "w2"]

    def renewed(self, worker_ids: Iterable[str], at: float) -> None:
        self.renewals.append(list(worker_ids))
        self.renewed_at = at

    def hidden_work(self, queues: Sequence[str]) -> None:
        self.hidden += queues

    def put_back(self, worker_id: str) -> None:
        self.done.append(worker_id)


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def master() -> FakeMaster:
    return FakeMaster()


@pytest.fixture
def scheduler(store: FakeStore, master: FakeMaster) -> TaskScheduler:
    return TaskScheduler(cast("Store", store), ForkGate(), SETTINGS, master)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    with caplog.at_level(logging.INFO, "fairqued.scheduler"):
        yield lambda: [record.getMessage() for record in caplog.records]


def died(worker_id: str, why: str = "death") -> Death:
    return Death(worker_id=worker_id, why=why)


def attempt(scheduler: TaskScheduler, name: str) -> None:
    (chore,) = (chore for chore in scheduler._chores if chore.name == name)
    scheduler._attempt(name, chore.run_once)


def test_ticks_vouch_for_the_living_and_the_master_hears_of_it(
    scheduler: TaskScheduler, store: FakeStore, master: FakeMaster
) -> None:
    before = time.monotonic()
    attempt(scheduler, "tick")
    assert store.living == ["w1", "w2"]
    assert master.renewals == [["w1", "w2"]]
    assert before <= master.renewed_at <= store.ticked_at, "when it was asked for: the answer may be long on its way"
    store.errors["tick"] = QueueUnavailable("away")
    attempt(scheduler, "tick")
    assert master.renewals == [["w1", "w2"]], "nothing was renewed"


def test_hidden_queues_with_work_are_told(scheduler: TaskScheduler, store: FakeStore, master: FakeMaster) -> None:
    attempt(scheduler, "tick")
    assert master.hidden == []
    store.hidden = ["mail", "of another daemon"]
    attempt(scheduler, "tick")
    assert master.hidden == ["mail"]


def test_the_tasks_of_the_dead_are_put_back(scheduler: TaskScheduler, store: FakeStore, master: FakeMaster) -> None:
    scheduler.put_back(died("dead1"))
    scheduler.put_back(died("dead2"))
    assert scheduler.stop(LATE) == []
    assert master.done == store.calls == ["dead1", "dead2"]


def test_how_a_worker_died_reaches_redis_whole(scheduler: TaskScheduler, store: FakeStore) -> None:
    will = Ended("t", 1, "fail", 1, b"{}")
    scheduler.put_back(Death(worker_id="dead", why="crash", error=b'{"signal":"SIGSEGV"}', wills=[will]))
    scheduler.stop(LATE)
    assert store.reclaims == [
        {"why": "crash", "max_crashes": 4, "error": b'{"signal":"SIGSEGV"}', "wills": [will]},
    ]


def test_without_redis_they_are_named(scheduler: TaskScheduler, store: FakeStore) -> None:
    store.errors["dead"] = QueueUnavailable("away")
    scheduler.put_back(died("dead"))
    assert scheduler.stop(0.1) == ["dead"]


def test_a_thread_that_is_held_up_does_not_hold_up_the_end(scheduler: TaskScheduler, store: FakeStore) -> None:
    """As by a name server that does not answer."""
    began, go_on = threading.Event(), threading.Event()

    def hang() -> bool:
        began.set()
        return go_on.wait(LATE)

    scheduler.run_errand("hang", lambda _: hang())
    scheduler.start()
    began.wait(LATE)
    scheduler.put_back(died("dead"))
    asked_at = time.monotonic()
    assert scheduler.stop(0.1) == ["dead"]
    assert time.monotonic() - asked_at < LATE / 2
    go_on.set()


def test_one_that_cannot_be_put_back_does_not_hold_up_the_others(
    scheduler: TaskScheduler, store: FakeStore, master: FakeMaster
) -> None:
    store.errors["cursed"] = ScriptError("a bug")
    scheduler.put_back(died("cursed"))
    scheduler.put_back(died("dead"))
    assert scheduler.stop(0.5) == ["cursed"]
    assert master.done == ["dead"]


def test_an_errand_is_run_once_redis_answers(scheduler: TaskScheduler, store: FakeStore) -> None:
    ran: list[object] = []
    failures = [QueueUnavailable("away"), QueueUnavailable("away")]

    def errand(given: Store) -> None:
        if failures:
            raise failures.pop()
        ran.append(given)

    scheduler.run_errand("configure", errand)
    assert [scheduler._run_errands() <= 1, scheduler._run_errands() <= 1] == [True, True]
    assert ran == []
    assert scheduler._run_errands() == float("inf")
    assert scheduler._run_errands() == float("inf")
    assert ran == [store]


def test_a_newer_errand_takes_the_place_of_one_that_fails_for_ever(scheduler: TaskScheduler) -> None:
    ran: list[str] = []

    def fail(_: Store) -> None:
        ran.append("old")
        raise ScriptError("a bug")

    scheduler.run_errand("configure", fail)
    scheduler.run_errand("restore", lambda _: ran.append("another"))
    assert scheduler._run_errands() <= 1
    assert ran == ["old", "another"]
    scheduler.run_errand("configure", lambda _: ran.append("new"))
    assert scheduler._run_errands() == float("inf")
    assert ran == ["old", "another", "new"]
    assert scheduler.sees_redis


def test_other_settings_hold_from_the_next_call(scheduler: TaskScheduler, store: FakeStore) -> None:
    store.hidden = ["gpu"]
    scheduler.settle(Settings(lease_us=1, finished=(1, 1), failed=(1, 1), dedup_us=1, only_own_workers=True))
    assert [chore.name for chore in scheduler._chores] == ["tick"]
    scheduler.settle(SETTINGS)
    assert [chore.name for chore in scheduler._chores] == ["tick", "promote", "trim"]


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
    for _ in range(2):
        attempt(scheduler, "tick")
        attempt(scheduler, "promote")
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


def test_the_thread_works_until_it_is_told_to_stop(scheduler: TaskScheduler, store: FakeStore) -> None:
    assert not scheduler.is_alive()
    scheduler.start()
    assert scheduler.is_alive()
    assert scheduler.stop(LATE) == []
    assert not scheduler.is_alive()
    assert set(store.calls) <= {"tick", "promote", "trim"}
