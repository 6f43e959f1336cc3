"""Nothing grows without bound: who and what has been is forgotten (section 5)."""

from __future__ import annotations

import pytest

from tests.support.world import DEDUP_US, SimulatedWorker, World

USERS, CHUNK = 2000, 500
STAYING = {"meta", "counters", "functions", "dead"}


def left(world: World) -> set[str]:
    """Keys that stand for tasks or users; a bell is a hint that the next idle worker takes, spent nonces expire."""
    names = {key for key in world.key_names() if key not in STAYING and not key.startswith("bell:")}
    return {key for key in names if not (key.startswith("spent:") and world.client.pttl(world.key(key)) > 0)}


def settle(world: World) -> None:
    """What masters do in some minutes."""
    for _ in range(USERS // CHUNK + 1):
        world.clock.advance(1)
        world.tick("w", most=500)
        world.trim(finished=(0, 0), failed=(0, 0))
    world.clock.advance(DEDUP_US / 1e6)
    while any(world.trim()):
        pass


@pytest.mark.parametrize("seconds", [0.0, 0.003])
def test_users_that_come_once_leave_nothing(world: World, seconds: float) -> None:
    worker = world.worker()
    for start in range(0, USERS, CHUNK):
        for number in range(start, start + CHUNK):
            world.push(f"t{number}", user=f"u{number}")
        for _ in range(CHUNK // 50):
            started = worker.pop(50)
            world.clock.advance(seconds)
            assert set(worker.finish(*started)) == {"finished"}
    settle(world)
    world.store.reclaim("w", "drain")
    assert left(world) == set()


def test_users_that_come_while_one_stays_leave_nothing_but_that_one(world: World) -> None:
    worker = world.worker()
    world.push(*(f"stay{number}" for number in range(300)), user="stays")
    for number in range(200):
        world.push(f"t{number}", user=f"u{number}")
        run_one(world, worker)
        run_one(world, worker)
    for _ in range(100):
        run_one(world, worker)
    world.tick("w")
    users = {user for _, user in world.snapshot().accounts}
    assert users == {"stays"} or len(users) < 20
    while run_one(world, worker):
        pass
    settle(world)
    assert left(world) == {"workers", "worker:w"}


def run_one(world: World, worker: SimulatedWorker) -> list[str]:
    started = worker.pop(1)
    world.clock.advance(0.01)
    worker.finish(*started)
    return started


def test_queues_that_are_used_once_leave_nothing(world: World) -> None:
    worker = world.worker()
    for number in range(50):
        queue = f"q{number}"
        world.push(f"t{number}", queue=queue)
        worker.finish(*worker.pop(1, [queue]))
    for _ in range(30):
        settle(world)
    assert left(world) == {"workers", "worker:w"}


def test_cancelled_and_failed_users_leave_nothing(world: World) -> None:
    worker = world.worker()
    for number in range(100):
        world.push(f"c{number}", user=f"u{number}")
        world.push(f"f{number}", user=f"v{number}")
        world.push(f"d{number}", user=f"w{number}", due="+9000000000")
        world.store.cancel([f"c{number}", f"d{number}"])
        worker.fail(*worker.pop(1))
    settle(world)
    assert left(world) == {"workers", "worker:w"}
