"""Claims are numbered: a repeated pop answers the same, a late one is refused (G4)."""

from __future__ import annotations

import pytest

from fairqued.errors import LateClaim, WorkerGone
from fairqued.state import TaskState
from tests.support.world import SimulatedWorker, World


@pytest.fixture
def worker(world: World) -> SimulatedWorker:
    world.push(*"abcde")
    return world.worker()


def test_a_repeated_claim_answers_the_same_records(world: World, worker: SimulatedWorker) -> None:
    first = world.store.pop("w", 1, 2, ["default"])
    before = world.snapshot()
    again = world.store.pop("w", 1, 2, ["default"])
    assert again.tasks == first.tasks
    assert [task_id for task_id, _ in first.tasks] == ["a", "b"]
    assert world.snapshot() == before


def test_a_repeated_claim_answers_only_what_is_still_held(world: World, worker: SimulatedWorker) -> None:
    worker.pop(3)
    worker.finish("a")
    worker.retry("b", delay_us=1_000_000)
    assert worker.pop(3, claim=1) == ["c"]


def test_a_late_copy_is_refused(world: World, worker: SimulatedWorker) -> None:
    worker.pop()
    worker.pop()
    before = world.snapshot()
    with pytest.raises(LateClaim, match="claim 1 came after claim 2"):
        worker.pop(claim=1)
    assert world.snapshot() == before


def test_an_empty_answer_uses_up_its_number(world: World, worker: SimulatedWorker) -> None:
    assert worker.pop(queues=["mail"]) == []
    world.push("late", queue="mail")
    assert worker.pop(queues=["mail"], claim=1) == []
    assert worker.pop(queues=["mail"], claim=2) == ["late"]


def test_numbers_may_be_left_out(world: World, worker: SimulatedWorker) -> None:
    assert worker.pop(claim=7) == ["a"]
    assert worker.pop(claim=9) == ["b"]


def test_workers_number_for_themselves(world: World, worker: SimulatedWorker) -> None:
    other = world.worker("other")
    assert (worker.pop(), other.pop(), worker.pop(), other.pop()) == (["a"], ["b"], ["c"], ["d"])


def test_nobody_claims_for_a_worker_that_is_not_registered(world: World, worker: SimulatedWorker) -> None:
    before = world.snapshot()
    with pytest.raises(WorkerGone, match="stranger is not registered"):
        SimulatedWorker(world, "stranger").pop()
    assert world.snapshot() == before


def test_a_late_pop_of_a_dead_worker_starts_nothing(world: World, worker: SimulatedWorker) -> None:
    worker.pop()
    world.store.reclaim("w", "death")
    with pytest.raises(WorkerGone):
        worker.pop()
    assert world.state("a") is TaskState.QUEUED


def test_completions_and_the_next_claim_travel_together(world: World, worker: SimulatedWorker) -> None:
    worker.pop(2)
    answer = world.store.exchange("w", [], [], 2, 2, ["default"])
    assert answer.popped
    assert [task_id for task_id, _ in answer.popped.tasks] == ["c", "d"]


def test_pop_says_when_the_next_delayed_task_is_due(world: World, worker: SimulatedWorker) -> None:
    assert world.store.pop("w", 1, 9, ["default"]).next_due_seconds is None
    world.push("later", due="+2500000")
    assert world.store.pop("w", 2, 9, ["default"]).next_due_seconds == 2.5
    world.clock.advance(1)
    assert world.store.pop("w", 3, 9, ["default"]).next_due_seconds == 1.5
