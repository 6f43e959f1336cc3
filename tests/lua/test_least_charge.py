"""A task costs at least a millisecond; what a short task leaves of it is not saved up."""

from __future__ import annotations

from tests.support.world import World

TINY = 1500
SECOND_US = 1_000_000


def test_many_tiny_tasks_buy_no_free_time_for_long_ones(world: World) -> None:
    worker = world.worker()
    for first in range(0, TINY, 100):
        world.push(*(f"tiny{number}" for number in range(first, first + 100)), user="whale")
    world.push("last", user="whale")
    for _ in range(TINY):
        (task_id,) = worker.pop()
        world.clock.advance(0.00001)
        worker.finish(task_id)
    account = world.snapshot().accounts["default", "whale"]
    assert account.v >= TINY * 1000
    assert account.deposit < SECOND_US / 10
