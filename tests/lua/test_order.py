"""Which task of a user is next, and who is served before whom (section 7, G9)."""

from __future__ import annotations

import itertools

import pytest

from fairqued.state import Priority, TaskState
from tests.support.world import SimulatedWorker, World, limits

HEAD_STARTS = {
    Priority.VERY_LOW: -600, Priority.LOW: -120, Priority.NORMAL: 0, Priority.HIGH: 120, Priority.VERY_HIGH: 600,
}  # fmt: skip


@pytest.fixture
def worker(world: World) -> SimulatedWorker:
    return world.worker()


def test_equal_tasks_run_in_the_order_of_their_enqueue(world: World, worker: SimulatedWorker) -> None:
    world.push("z", "y")
    world.clock.advance(0.001)
    world.push("x")
    world.clock.advance(0.001)
    world.push("a")
    assert worker.pop(9) == ["z", "y", "x", "a"]


@pytest.mark.parametrize(("early", "late"), list(itertools.pairwise(reversed(HEAD_STARTS))))
def test_head_starts_are_what_they_say(world: World, worker: SimulatedWorker, early: Priority, late: Priority) -> None:
    """One of lower priority goes first if it came earlier by more than the difference."""
    gap = HEAD_STARTS[early] - HEAD_STARTS[late]
    world.push("old", priority=late)
    world.clock.advance(gap - 1)
    world.push("soon enough", priority=early)
    world.clock.advance(2)
    world.push("too late", priority=early)
    assert worker.pop(9) == ["soon enough", "old", "too late"]


def test_head_starts_can_be_set(world: World, worker: SimulatedWorker) -> None:
    world.limit({}, **{"head_start:3": 5_000_000})
    world.push("old")
    world.clock.advance(6)
    world.push("high", priority=Priority.HIGH)
    assert worker.pop(2) == ["old", "high"]


def test_critical_tasks_go_first_in_their_own_order(world: World, worker: SimulatedWorker) -> None:
    world.push("n", priority=Priority.VERY_HIGH)
    world.clock.advance(700)
    world.push("c1", priority=Priority.CRITICAL)
    world.clock.advance(1)
    world.push("c2", priority=Priority.CRITICAL)
    assert worker.pop(3) == ["c1", "c2", "n"]


def test_critical_work_is_served_before_that_of_others(world: World, worker: SimulatedWorker) -> None:
    """Even if its user has had more than the others, by less than the lead."""
    world.push(*(f"a{number}" for number in range(20)))
    assert worker.pop(4) == ["a0", "a1", "a2", "a3"]
    world.clock.advance(2)
    world.push(*(f"b{number}" for number in range(20)), user="bob")
    assert worker.pop(3) == ["b0", "b1", "b2"]
    world.push("urgent", priority=Priority.CRITICAL)
    assert worker.pop(2) == ["urgent", "b3"]


def test_critical_work_waits_if_its_user_has_had_more_than_the_lead(world: World, worker: SimulatedWorker) -> None:
    world.push(*(f"a{number}" for number in range(20)))
    worker.pop(4)
    world.clock.advance(3)
    world.push(*(f"b{number}" for number in range(20)), user="bob")
    worker.pop(1)
    world.push("urgent", priority=Priority.CRITICAL)
    assert worker.pop() == ["b1"]


def test_a_flood_of_critical_work_soon_spends_its_lead(world: World, worker: SimulatedWorker) -> None:
    world.push(*(f"c{number}" for number in range(400)), priority=Priority.CRITICAL)
    world.push(*(f"b{number}" for number in range(400)), user="bob")
    started = worker.run_slots(4, rounds=100)
    last_hundred = started[-100:]
    assert 40 <= sum(task_id.startswith("b") for task_id in last_hundred) <= 60


def test_the_lead_can_be_set(world: World, worker: SimulatedWorker) -> None:
    world.limit({}, critical_lead=0)
    world.push("b1", "b2", user="bob")
    world.push("x1")
    worker.pop(2)
    world.push("c1", "c2", "c3", priority=Priority.CRITICAL)
    assert "b2" in worker.pop(2)


def test_one_that_comes_late_is_served_at_once(world: World, worker: SimulatedWorker) -> None:
    world.push(*(f"b{number}" for number in range(500)), user="bob")
    worker.run_slots(4, rounds=60)
    world.push("mine")
    assert worker.pop() == ["mine"]


def test_one_that_runs_but_waits_for_nothing_saves_nothing(world: World, worker: SimulatedWorker) -> None:
    other = world.worker("other")
    world.push("long")
    assert other.pop() == ["long"]
    world.push(*(f"b{number}" for number in range(500)), user="bob")
    worker.run_slots(3, rounds=60)
    world.push(*(f"a{number}" for number in range(100)))
    started = worker.run_slots(4, rounds=10)
    assert 13 <= sum(task_id.startswith("a") for task_id in started) <= 17


def test_one_that_comes_back_has_saved_nothing(world: World, worker: SimulatedWorker) -> None:
    world.push("early")
    worker.pop()
    worker.finish("early")
    world.push(*(f"b{number}" for number in range(500)), user="bob")
    worker.run_slots(4, rounds=60)
    world.push(*(f"a{number}" for number in range(100)))
    started = worker.run_slots(4, rounds=10)
    assert len(started) == 40
    assert 18 <= sum(task_id.startswith("a") for task_id in started) <= 22


@pytest.mark.parametrize("weight", [2, 3, 5])
def test_weights_divide_slot_time(world: World, worker: SimulatedWorker, weight: int) -> None:
    world.limit({"alice": limits(weight=weight)})
    world.push(*(f"a{number}" for number in range(500)))
    world.push(*(f"b{number}" for number in range(500)), user="bob")
    started = worker.run_slots(4, rounds=90)
    share = sum(task_id.startswith("a") for task_id in started) / len(started)
    assert share == pytest.approx(weight / (weight + 1), rel=0.03)


def test_queues_are_served_in_the_order_of_preference(world: World, worker: SimulatedWorker) -> None:
    world.push("d1", "d2")
    world.push("m1", "m2", queue="mail")
    assert worker.pop(3, ["mail", "default"]) == ["m1", "m2", "d1"]


def test_a_worker_gets_nothing_from_other_queues(world: World, worker: SimulatedWorker) -> None:
    world.push("d1")
    assert worker.pop(3, ["mail"]) == []


# Delayed tasks


def test_a_delayed_task_waits_for_its_time(world: World, worker: SimulatedWorker) -> None:
    world.push("later", due="+2000000")
    world.push("at", due=f"@{world.clock.now + 1_000_000}")
    world.push("past", due="@1")
    assert worker.pop(9) == ["past"]
    world.clock.advance(1)
    assert worker.pop(9) == ["at"]
    world.clock.advance(0.999999)
    assert worker.pop(9) == []
    world.clock.advance(0.000001)
    assert worker.pop(9) == ["later"]


def test_a_delayed_task_takes_its_place_by_its_due_time(world: World, worker: SimulatedWorker) -> None:
    world.push("delayed", due="+1000000")
    world.clock.advance(2)
    world.push("new")
    assert worker.pop(2) == ["delayed", "new"]


def test_pop_promotes_some_at_a_time(world: World, worker: SimulatedWorker) -> None:
    world.push(*map(str, range(40)), due="+1")
    world.clock.advance(1)
    assert [len(worker.pop(40)) for _ in range(4)] == [16, 16, 8, 0]


def test_promote_tells_how_many_and_when_the_next_is_due(world: World) -> None:
    world.push("a", "b", due="+1000000")
    world.push("c", due="+5000000")
    assert world.store.promote() == (0, 1.0)
    world.clock.advance(2)
    assert world.store.promote(1) == (1, 0.0)
    assert world.store.promote() == (1, 3.0)
    world.clock.advance(3)
    assert world.store.promote() == (1, None)
    assert world.state("c") is TaskState.QUEUED


def test_the_first_delayed_task_rings_the_bell(world: World) -> None:
    world.push("late", due="+9000000")
    world.client.delete(world.key("bell", "default"))
    world.push("later", due="+9900000")
    assert "bell:default" not in world.key_names()
    world.push("soon", due="+1000000")
    assert "bell:default" in world.key_names()


def test_one_marker_is_enough_for_many_and_is_put_back_while_more_is_ready(
    world: World, worker: SimulatedWorker
) -> None:
    world.push(*map(str, range(5)))
    assert world.snapshot().zset("bell", "default") == {"1": 0}
    world.client.delete(world.key("bell", "default"))
    worker.pop(4)
    assert "bell:default" in world.key_names()
    world.client.delete(world.key("bell", "default"))
    worker.pop(4)
    assert "bell:default" not in world.key_names()
