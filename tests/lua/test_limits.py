"""Users who may not run now are parked, and come back by the event that frees them (section 7)."""

from __future__ import annotations

import pytest

from tests.support.world import SimulatedWorker, World, limits

ONE = {"alice": limits(max_running=1)}


@pytest.fixture
def worker(world: World) -> SimulatedWorker:
    return world.worker()


def parked(world: World) -> set[tuple[str, str]]:
    return world.snapshot().parked


def test_a_user_runs_no_more_than_it_may(world: World, worker: SimulatedWorker) -> None:
    world.limit({"alice": limits(max_running=2)})
    world.push(*"abcd")
    world.push("x", user="bob")
    assert sorted(worker.pop(9)) == ["a", "b", "x"]
    assert parked(world) == {("default", "alice")}


@pytest.mark.parametrize("end", ["finish", "fail", "retry", "hand_back"])
def test_the_end_of_a_task_lets_the_next_one_run(world: World, worker: SimulatedWorker, end: str) -> None:
    world.limit(ONE)
    world.push("a", "b")
    worker.pop(9)
    getattr(worker, end)("a")
    assert parked(world) == set()
    assert worker.pop() in (["a"], ["b"])


def test_a_reclaim_lets_the_next_one_run(world: World, worker: SimulatedWorker) -> None:
    world.limit(ONE)
    world.push("a", "b")
    worker.pop(9)
    world.store.reclaim("w", "death")
    assert world.worker("other").pop(9) == ["a"]


def test_the_limit_holds_across_queues(world: World, worker: SimulatedWorker) -> None:
    world.limit(ONE)
    world.push("a", queue="default")
    world.push("b", queue="mail")
    assert worker.pop(9, ["default", "mail"]) == ["a"]
    assert parked(world) == {("mail", "alice")}
    worker.finish("a")
    assert worker.pop(9, ["default", "mail"]) == ["b"]


def test_a_paused_user_waits_until_it_is_resumed(world: World, worker: SimulatedWorker) -> None:
    world.limit({"alice": limits(paused=True)})
    world.push("a")
    assert worker.pop() == []
    assert parked(world) == {("default", "alice")}
    world.limit({})
    assert worker.pop() == ["a"]


def test_what_comes_in_for_a_parked_user_waits_too(world: World, worker: SimulatedWorker) -> None:
    world.limit({"alice": limits(paused=True)})
    world.push("a")
    worker.pop()
    world.push("b")
    assert world.snapshot().ready == set()
    assert worker.pop() == []


def test_a_parked_user_without_tasks_is_forgotten(world: World, worker: SimulatedWorker) -> None:
    world.limit({"alice": limits(paused=True)})
    world.push("a", "b")
    worker.pop()
    world.store.cancel(["a", "b"])
    assert parked(world) == set()
    assert "parked" not in world.key_names()


def test_defaults_of_the_namespace_hold_for_everyone(world: World, worker: SimulatedWorker) -> None:
    world.limit({"bob": limits(max_running=0)}, max_running=1)
    world.push("a1", "a2")
    world.push("b1", "b2", user="bob")
    assert sorted(worker.pop(9)) == ["a1", "b1", "b2"]


def test_the_same_settings_again_change_nothing(world: World) -> None:
    assert world.store.configure("digest", {"weight": 2}, ONE)
    before = world.snapshot()
    assert not world.store.configure("digest", {"weight": 3}, {})
    assert world.snapshot() == before


def test_limits_that_an_operator_set_stay(world: World) -> None:
    world.client.hset(world.key("limits"), "alice", '{"max_running":{"value":7,"origin":"ctl"}}')
    world.limit({"alice": limits(max_running=1, weight=2)})
    assert world.snapshot().limits_of("alice") == {"max_running": 7, "weight": 2, "paused": False}
    world.limit({})
    assert world.snapshot().limits_of("alice") == {"max_running": 7, "weight": 1, "paused": False}


def test_settings_that_cannot_be_read_change_nothing(world: World) -> None:
    before = world.snapshot()
    with pytest.raises(Exception, match="lua/configure"):
        world.store.configure("digest", {"weight": 2}, {"alice": b"{no json"})
    assert world.snapshot() == before


def test_a_cap_is_no_way_to_save_up(world: World, worker: SimulatedWorker) -> None:
    """A user that its own limit held back is no further behind than one estimate when it is freed."""
    world.limit({"alice": limits(max_running=1)})
    world.push(*(f"a{number}" for number in range(100)))
    world.push(*(f"b{number}" for number in range(100)), user="bob")
    assert sum(task_id.startswith("a") for task_id in worker.run_slots(4, rounds=10)) == 10
    world.limit({})
    assert 9 <= sum(task_id.startswith("a") for task_id in worker.run_slots(4, rounds=5)) <= 12


def test_a_thousand_parked_users_do_not_hide_one_who_may_run(world: World, worker: SimulatedWorker) -> None:
    world.limit({"free": limits(max_running=0)}, paused=1)
    world.limit({"free": limits(paused=False)})
    for number in range(300):
        world.push(f"t{number}", user=f"u{number}")
    world.push("mine", user="free")
    answers = [worker.pop(9) for _ in range(5)]
    assert ["mine"] in answers
    assert len(parked(world)) == 300


DAMAGED_LIMITS = [
    b"{no json", b"[]", b"7", b'{"weight": 3}', b'{"weight": {"value": 0}}', b'{"max_running": {"value": "x"}}',
]  # fmt: skip


@pytest.mark.parametrize("damaged", DAMAGED_LIMITS)
def test_damaged_limits_stop_nobody(world: World, damaged: bytes) -> None:
    world.client.hset(world.key("limits"), "alice", damaged)
    worker = world.worker()
    world.push("a", user="alice")
    world.push("b", user="bob")
    assert sorted(worker.pop(2)) == ["a", "b"]
    assert worker.finish("a", "b") == ["finished", "finished"]
    world.limit({"alice": limits(max_running=1)})
    world.push("c", "d", user="alice")
    assert len(worker.pop(2)) == 1


def test_changed_limits_free_any_number_of_parked_users(world: World) -> None:
    names = [f"u{number}" for number in range(450)]
    world.limit({}, max_running=1)
    worker = world.worker()
    for name in names:
        world.push(f"{name}-1", f"{name}-2", user=name)
    assert len(worker.pop(600)) == 450
    assert worker.pop(100) == []
    world.limit({}, max_running=0)
    assert len(worker.pop(600)) == 450
