"""What has ended is dropped by time and count; an id is refused for a while after its task's end (G3)."""

from __future__ import annotations

import pytest

from fairqued.errors import DuplicateTask
from fairqued.state import TaskState
from tests.support.world import DEDUP_OWN_US, DEDUP_US, FOREVER_US, SimulatedWorker, World, new_task

SECOND = 1_000_000


@pytest.fixture
def worker(world: World) -> SimulatedWorker:
    return world.worker()


def run(world: World, worker: SimulatedWorker, *task_ids: str, end: str = "finish", has_own_id: bool = False) -> None:
    """Enqueue tasks and end them, a second each."""
    for task_id in task_ids:
        world.push(task_id, has_own_id=has_own_id)
        if end == "cancel":
            world.store.cancel([task_id])
        else:
            worker.pop()
            getattr(worker, end)(task_id)
        world.clock.advance(1)


@pytest.mark.parametrize("end", ["finish", "cancel", "fail"])
def test_the_oldest_beyond_the_count_are_dropped(world: World, worker: SimulatedWorker, end: str) -> None:
    run(world, worker, *"abcde", end=end)
    assert world.trim(finished=(FOREVER_US, 2), failed=(FOREVER_US, 2)) == (3, 0)
    assert set(world.snapshot().tasks) == {"d", "e"}


@pytest.mark.parametrize("end", ["finish", "cancel", "fail"])
def test_those_beyond_the_age_are_dropped(world: World, worker: SimulatedWorker, end: str) -> None:
    run(world, worker, *"abcde", end=end)
    age = 2 * SECOND
    assert world.trim(finished=(age, FOREVER_US), failed=(age, FOREVER_US)) == (4, 0)
    assert set(world.snapshot().tasks) == {"e"}


def test_a_call_drops_no_more_than_it_may(world: World, worker: SimulatedWorker) -> None:
    run(world, worker, *"abcde")
    assert [world.trim(finished=(0, 0), most=2)[0] for _ in range(4)] == [2, 2, 1, 0]


def test_results_go_with_their_tasks(world: World, worker: SimulatedWorker) -> None:
    world.push("a")
    worker.pop()
    worker.finish("a", result=b"1")
    assert world.client.pttl(world.key("result", "a")) > 0
    world.trim(finished=(0, 0))
    assert "result:a" not in world.key_names()


def test_what_has_not_ended_stays(world: World, worker: SimulatedWorker) -> None:
    world.push("running", "waiting")
    world.push("delayed", due="+1000")
    worker.pop()
    world.clock.advance(10**6)
    assert world.trim(finished=(0, 0), failed=(0, 0)) == (0, 0)
    assert len(world.snapshot().tasks) == 3


@pytest.mark.parametrize(("has_own_id", "window_us"), [(False, DEDUP_US), (True, DEDUP_OWN_US)])
def test_an_id_is_refused_until_its_window_is_over(
    world: World, worker: SimulatedWorker, window_us: int, *, has_own_id: bool
) -> None:
    run(world, worker, "a", has_own_id=has_own_id)
    world.trim(finished=(0, 0))
    with pytest.raises(DuplicateTask, match="existed a moment ago"):
        world.push("a")
    world.clock.advance(window_us / 1e6 - 1.5)
    assert world.trim() == (0, 0)
    with pytest.raises(DuplicateTask):
        world.push("a")
    world.clock.advance(1)
    assert world.trim() == (0, 1)
    assert world.push("a") == ["queued"]


def test_one_whose_window_is_over_leaves_no_tombstone(world: World, worker: SimulatedWorker) -> None:
    run(world, worker, "a")
    world.clock.advance(DEDUP_US / 1e6)
    world.trim(finished=(0, 0))
    assert world.push("a") == ["queued"]


def test_a_repeated_enqueue_meets_the_tombstone(world: World, worker: SimulatedWorker) -> None:
    nonce = world.nonce()
    world.store.push(nonce, "raise", [new_task("a")])
    worker.pop()
    worker.finish("a")
    world.trim(finished=(0, 0))
    assert world.store.push(nonce, "raise", [new_task("a")]) == ["already"]
    assert world.store.push(world.nonce(), "ignore", [new_task("a")]) == ["exists"]
    with pytest.raises(DuplicateTask):
        world.store.push(world.nonce(), "replace", [new_task("a")])


def test_one_that_is_retried_is_not_dropped(world: World, worker: SimulatedWorker) -> None:
    run(world, worker, "a", end="fail")
    world.store.retry(world.nonce(), ["a"])
    world.trim(finished=(0, 0), failed=(0, 0))
    assert world.state("a") is TaskState.QUEUED
