"""A task whose worker had to be killed ends as the worker wanted it: once, and nobody else's."""

from __future__ import annotations

import pytest

from fairqued.record import reason_number
from fairqued.state import Reason, TaskState
from fairqued.store import Ended
from tests.support.world import SimulatedWorker, World

TOLD = b'{"type":"TaskTimeout"}'
TIMEOUT = reason_number(Reason.TIMEOUT)


@pytest.fixture
def worker(world: World) -> SimulatedWorker:
    """A worker that holds the tasks `a`, `b` and `c`."""
    for task_id in "abc":
        world.push(task_id)
    worker = world.worker()
    worker.pop(3)
    return worker


def will(worker: SimulatedWorker, task_id: str, what: str = "fail", number: int = TIMEOUT) -> Ended:
    return Ended(task_id, worker.fences[task_id], what, number, TOLD)


@pytest.mark.parametrize(("what", "number"), [("fail", TIMEOUT), ("retry", 5_000_000), ("hand_back", 1_000)])
def test_a_will_is_what_fail_would_have_done(world: World, worker: SimulatedWorker, what: str, number: int) -> None:
    world.store.exchange("w", [], [will(worker, "a", what, number)], None, 0, ())
    assert world.store.reclaim("w", "drain", wills=[will(worker, "b", what, number)]) == (2, 0)
    failed, ended = world.record("a"), world.record("b")
    assert ended == failed._replace(task_id="b", nonce=ended.nonce)
    assert ended.error == TOLD


def test_the_others_end_as_the_reason_has_it(world: World, worker: SimulatedWorker) -> None:
    world.store.reclaim("w", "drain", wills=[will(worker, "b")])
    assert (world.state("b"), world.record("b").reason) == (TaskState.FAILED, Reason.TIMEOUT)
    assert [(world.state(i), world.record(i).attempts) for i in "ac"] == [(TaskState.QUEUED, 0)] * 2


def test_a_will_is_no_crash(world: World, worker: SimulatedWorker) -> None:
    world.store.reclaim("w", "crash", max_crashes=1, error=b"{}", wills=[will(worker, "b", "retry", 0)])
    assert (world.record("b").crashes, world.record("b").failures) == (0, 1)
    assert world.record("a").reason is Reason.POISONED


def test_an_asked_cancel_comes_before_a_will(world: World, worker: SimulatedWorker) -> None:
    world.store.cancel(["a"])
    world.store.reclaim("w", "drain", wills=[will(worker, "a", "retry", 0)])
    assert (world.state("a"), world.record("a").failures) == (TaskState.CANCELLED, 0)


@pytest.mark.parametrize("offset", [-1, 1])
def test_a_will_counts_for_the_attempt_that_it_was_made_in(world: World, worker: SimulatedWorker, offset: int) -> None:
    worker.retry("a")
    world.store.promote()
    assert worker.pop() == ["a"]
    another = will(worker, "a")._replace(fence=worker.fences["a"] + offset)
    world.store.reclaim("w", "death", wills=[another])
    assert (world.state("a"), world.record("a").suspicion) == (TaskState.QUEUED, 1)


def test_the_will_of_the_present_attempt_counts_among_older_ones(world: World, worker: SimulatedWorker) -> None:
    older = will(worker, "a", "retry", 0)
    worker.retry("a")
    world.store.promote()
    assert worker.pop() == ["a"]
    world.store.reclaim("w", "death", wills=[older, will(worker, "a"), older])
    assert world.state("a") is TaskState.FAILED


def test_a_will_for_what_another_worker_holds_is_void(world: World, worker: SimulatedWorker) -> None:
    world.push("other's", "ended")
    other = world.worker("other")
    other.pop(2)
    other.finish("ended")
    before = world.record("other's"), world.record("ended")
    world.store.reclaim("w", "drain", wills=[will(other, "other's"), will(other, "ended"), will(worker, "a")])
    assert (world.record("other's"), world.record("ended")) == before
    assert other.finish("other's") == ["finished"]


def test_wills_are_executed_once_however_often_they_come(world: World, worker: SimulatedWorker) -> None:
    wills = [will(worker, task_id, "retry", 0) for task_id in "abc"]
    assert world.store.reclaim("w", "drain", most=1, wills=wills) == (1, 2)
    assert world.store.promote()[0] == 1
    other = world.worker("other")
    assert other.pop() == ["a"]
    assert world.store.reclaim("w", "drain", most=1, wills=wills) == (1, 1)
    assert world.store.reclaim("w", "drain", wills=wills) == (1, 0)
    assert world.store.reclaim("w", "drain", wills=wills) == (0, 0)
    assert world.state("a") is TaskState.STARTED
    assert [world.record(task_id).failures for task_id in "abc"] == [1, 1, 1]
    assert world.snapshot().numbers("counters")["retried"] == 3
