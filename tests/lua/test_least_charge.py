"""A task costs at least a millisecond; what a short task leaves of it is not saved up."""

from __future__ import annotations

from tests.support.world import World


def test_many_tiny_tasks_buy_no_free_time_for_long_ones(world: World) -> None:
    worker = world.worker()
    for batch in range(20):
        tiny = [f"tiny{batch}-{number}" for number in range(100)]
        world.push(*tiny, user="whale")
        for task_id in tiny:
            assert worker.pop() == [task_id]
            world.clock.advance(0.00001)
            worker.finish(task_id)
    for user in ("whale", "bob"):
        world.push(*(f"{user}{number}" for number in range(20)), user=user)
    started = worker.run_slots(1, 20)
    assert 8 <= sum(task_id.startswith("bob") for task_id in started) <= 12
