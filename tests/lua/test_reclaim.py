"""What a dead worker held goes back, what a living one holds stays (G5, G6)."""

from __future__ import annotations

import pytest

from fairqued.errors import WorkerGone
from fairqued.state import Reason, TaskState
from tests.support.world import LEASE_US, SILENCE_US, SimulatedWorker, World

LEASE_SECONDS, SILENCE_SECONDS = LEASE_US / 1e6, SILENCE_US / 1e6


@pytest.fixture
def worker(world: World) -> SimulatedWorker:
    """A worker that holds the tasks `a` and `b`; `c` waits."""
    world.push("a", "b", "c")
    worker = world.worker()
    worker.pop(2)
    return worker


def counts(world: World, task_id: str) -> dict[str, int]:
    record = world.record(task_id)
    names = ("attempts", "failures", "suspicion", "losses", "crashes")
    return {name: getattr(record, name) for name in names if getattr(record, name)}


@pytest.mark.parametrize(
    ("why", "expected"),
    [("death", {"attempts": 1, "suspicion": 1}), ("lost", {"attempts": 1, "losses": 1}), ("drain", {})],
)
def test_each_reason_counts_its_own(world: World, worker: SimulatedWorker, why: str, expected: dict[str, int]) -> None:
    assert world.store.reclaim("w", why) == (2, 0)
    assert counts(world, "a") == expected
    assert world.state("a") is TaskState.QUEUED


def test_what_goes_back_keeps_its_place(world: World, worker: SimulatedWorker) -> None:
    world.clock.advance(5)
    world.store.reclaim("w", "death")
    assert world.worker("other").pop(3) == ["a", "b", "c"]


def test_the_fence_rises_with_each_exit(world: World, worker: SimulatedWorker) -> None:
    world.store.reclaim("w", "drain")
    assert world.record("a").fence == 2
    world.worker("other").pop()
    assert world.record("a").fence == 3


def test_reclaim_goes_on_where_it_stopped(world: World, worker: SimulatedWorker) -> None:
    worker.pop()
    assert world.store.reclaim("w", "death", most=2) == (2, 1)
    assert world.fsck() == []
    assert "w" in world.snapshot().zset("workers")
    assert world.store.reclaim("w", "death", most=2) == (1, 0)
    assert world.store.reclaim("w", "death", most=2) == (0, 0)
    assert "w" not in world.snapshot().zset("workers")


def test_tick_ends_a_reclaim_that_was_cut_short(world: World, worker: SimulatedWorker) -> None:
    world.store.reclaim("w", "death", most=1)
    assert world.tick() == (True, 1, ["w"], [])


def test_a_late_copy_of_a_reclaim_harms_nobody(world: World, worker: SimulatedWorker) -> None:
    world.store.reclaim("w", "death")
    world.worker("other").pop(3)
    assert world.store.reclaim("w", "death") == (0, 0)
    assert {world.state(task_id) for task_id in "abc"} == {TaskState.STARTED}


def test_an_asked_cancel_is_done_by_reclaim(world: World, worker: SimulatedWorker) -> None:
    world.store.cancel(["a"])
    world.store.reclaim("w", "lost")
    assert (world.state("a"), world.state("b")) == (TaskState.CANCELLED, TaskState.QUEUED)


def test_ten_losses_are_enough(world: World) -> None:
    world.push("a")
    for number in range(10):
        assert world.worker(f"w{number}").pop() == ["a"]
        world.store.reclaim(f"w{number}", "lost")
    record = world.record("a")
    assert (record.state, record.reason, record.losses) == (TaskState.FAILED, Reason.LOST, 10)


# Registration


def test_register_once_more_resets_nothing(world: World, worker: SimulatedWorker) -> None:
    before = world.snapshot()
    assert not world.store.register("w", LEASE_US, b'{"other":1}', {})
    assert world.snapshot() == before


def test_the_dead_cannot_register(world: World, worker: SimulatedWorker) -> None:
    world.store.reclaim("w", "death")
    with pytest.raises(WorkerGone, match="declared dead"):
        world.worker("w")
    world.clock.advance(3599)
    world.tick()
    with pytest.raises(WorkerGone):
        world.worker("w")


def test_one_who_never_registered_can_be_declared_dead(world: World) -> None:
    assert world.store.reclaim("w", "death") == (0, 0)
    with pytest.raises(WorkerGone):
        world.worker("w")


def test_tombstones_of_workers_go(world: World) -> None:
    world.store.reclaim("w", "death")
    world.clock.advance(3601)
    world.tick()
    assert world.snapshot().zset("dead") == {}


def test_functions_are_published(world: World) -> None:
    world.store.register("w", LEASE_US, b"{}", {"app:f": b'{"v":1}', "app:g": b"{}"})
    world.store.register("w", LEASE_US, b"{}", {"app:f": b'{"v":2}'})
    assert world.snapshot().hash("functions") == {"app:f": b'{"v":2}', "app:g": b"{}"}


# Heartbeats


def test_heartbeat_renews_the_lease(world: World, worker: SimulatedWorker) -> None:
    world.clock.advance(10)
    assert worker.heartbeat("a", "b") == []
    assert world.snapshot().zset("workers") == {"w": world.clock.now + LEASE_US}


def test_heartbeat_puts_back_what_the_worker_does_not_know(world: World, worker: SimulatedWorker) -> None:
    assert worker.heartbeat("a") == []
    assert (world.state("a"), world.state("b")) == (TaskState.STARTED, TaskState.QUEUED)
    assert counts(world, "b") == {"attempts": 1}


def test_heartbeat_leaves_claims_alone_whose_answer_is_on_its_way(world: World, worker: SimulatedWorker) -> None:
    worker.pop()
    assert worker.heartbeat("a", "b", claim=1) == []
    assert world.state("c") is TaskState.STARTED


def test_heartbeat_orders(world: World, worker: SimulatedWorker) -> None:
    world.store.cancel(["a"])
    world.push("never started")
    worker.fences["never started"] = 1
    assert worker.heartbeat("a", "b", "never started") == [("cancel", "a"), ("gone", "never started")]


def test_heartbeat_says_nothing_of_what_the_worker_ended_itself(world: World, worker: SimulatedWorker) -> None:
    worker.finish("a")
    assert worker.heartbeat("a", "b") == []


def test_heartbeat_of_the_dead_is_refused(world: World, worker: SimulatedWorker) -> None:
    world.store.reclaim("w", "death")
    with pytest.raises(WorkerGone):
        worker.heartbeat("a", "b")


def test_heartbeat_puts_back_a_hundred_at_most(world: World) -> None:
    world.push(*map(str, range(150)))
    worker = world.worker()
    worker.pop(150)
    worker.heartbeat()
    assert len(world.snapshot().claims["w"]) == 50


# Ticks


def tick_for(world: World, seconds: float, *living: str) -> list[str]:
    """Tick each second: the workers that were declared dead."""
    dead = []
    for _ in range(int(seconds)):
        world.clock.advance(1)
        tick = world.tick(*living)
        assert tick.judged
        dead += tick.dead
    return dead


def test_a_lease_that_is_over_is_judged(world: World, worker: SimulatedWorker) -> None:
    assert tick_for(world, LEASE_SECONDS - 1) == []
    assert tick_for(world, 1) == ["w"]
    assert counts(world, "a") == {"attempts": 1, "losses": 1}


def test_a_master_vouches_for_its_living(world: World, worker: SimulatedWorker) -> None:
    world.worker("other")
    assert tick_for(world, 5 * LEASE_SECONDS, "w") == ["other"]
    assert world.state("a") is TaskState.STARTED


def test_a_master_cannot_vouch_for_one_who_is_not_registered(world: World) -> None:
    tick_for(world, 3, "stranger")
    assert world.snapshot().zset("workers") == {}


def test_a_master_cannot_vouch_for_the_dead(world: World, worker: SimulatedWorker) -> None:
    world.store.reclaim("w", "death", most=1)
    assert world.tick("w") == (True, 1, ["w"], [])


def test_a_worker_that_heartbeats_needs_no_master(world: World, worker: SimulatedWorker) -> None:
    for _ in range(10):
        assert tick_for(world, 5) == []
        worker.heartbeat("a", "b")


def test_after_a_silence_nobody_is_judged(world: World, worker: SimulatedWorker) -> None:
    world.tick()
    world.clock.advance(10 * LEASE_SECONDS)
    assert world.tick() == (False, 0, [], [])
    assert tick_for(world, LEASE_SECONDS - 1) == []
    assert tick_for(world, 1) == ["w"]


@pytest.mark.parametrize(("seconds", "judged"), [(SILENCE_SECONDS, True), (SILENCE_SECONDS + 0.001, False)])
def test_how_long_a_silence_may_last(world: World, seconds: float, *, judged: bool) -> None:
    world.tick()
    world.clock.advance(seconds)
    assert world.tick().judged is judged


def test_a_clock_that_jumps_back_is_a_silence(world: World, worker: SimulatedWorker) -> None:
    world.clock.advance(100)
    world.tick()
    world.clock.advance(-100)
    assert world.tick() == (False, 0, [], [])


def test_a_silence_does_not_revive_the_dead(world: World, worker: SimulatedWorker) -> None:
    world.tick()
    world.store.reclaim("w", "death", most=1)
    world.clock.advance(10 * SILENCE_SECONDS)
    world.tick()
    world.clock.advance(1)
    assert world.tick() == (True, 1, ["w"], [])


def test_tick_puts_back_no_more_than_it_may(world: World) -> None:
    world.push(*map(str, range(6)))
    for name in ("w1", "w2"):
        world.worker(name, lease_us=1_000_000).pop(3)
    world.clock.advance(2)
    assert world.tick(most=4) == (True, 4, ["w1", "w2"], [])
    assert world.tick(most=4) == (True, 2, ["w2"], [])


def test_a_late_copy_of_a_tick_kills_no_living_worker(world: World, worker: SimulatedWorker) -> None:
    tick_for(world, 20, "w")
    assert world.tick() == (True, 0, [], [])
    assert world.state("a") is TaskState.STARTED
