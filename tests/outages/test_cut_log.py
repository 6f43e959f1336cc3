"""A server whose append-only file was cut anywhere: what is left of a namespace is sound, and can be worked off."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from fairqued.state import Priority, TaskState
from tests.support.servers import RedisServer, ServerBinary
from tests.support.world import FOREVER_US, World, limits

CUTS = 12
OPTIONS = ("--aof-load-truncated", "yes", "--appendfsync", "always")


def live(world: World) -> None:
    """Some of everything that may happen in a namespace."""
    world.limit({"bob": limits(max_running=1)})
    for number, user in enumerate(("alice", "bob", "carol")):
        world.push(*(f"{user}{index}" for index in range(8)), user=user)
        world.push(f"later{number}", user=user, due="+2000000")
        world.push(f"urgent{number}", user=user, priority=Priority.CRITICAL)
    first, second = world.worker("first"), world.worker("second")
    started = first.pop(6)
    second.pop(4)
    first.finish(*started[:2], result=b"1")
    first.fail(started[2])
    first.retry(started[3], delay_us=1000)
    world.store.cancel([started[4], "alice7"], world.nonce())
    first.heartbeat(started[4])
    world.clock.advance(3)
    world.store.promote()
    world.tick("first")
    world.store.reclaim("second", "death")
    world.store.retry(world.nonce(), [started[2]])
    first.pop(3)
    world.trim(finished=(1, FOREVER_US))


def work_off(world: World) -> None:
    """Some time later: reclaim what is left of the workers, and run all that is there."""
    world.clock.advance(100)
    for name in world.snapshot().zset("workers"):
        while world.store.reclaim(name, "lost")[1]:
            pass
    worker = world.worker("last")
    while started := worker.pop(50):
        worker.finish(*started)


def log_of(server: RedisServer) -> Path:
    """The file that the server appends to."""
    files = [*server.directory.glob("appendonlydir/*.incr.aof"), *server.directory.glob("appendonly.aof")]
    return max(files, key=lambda file: file.stat().st_size)


@pytest.mark.server
def test_a_log_that_was_cut(
    start_server: Callable[..., RedisServer], server_binary: ServerBinary, namespace: str
) -> None:
    server = start_server(server_binary, persist=True, options=OPTIONS)
    world = World(server.url, namespace)
    begin = log_of(server).stat().st_size  # Redis 6 logs the scripts, too
    live(world)
    whole, found = world.snapshot(), set()
    server.kill()
    log = log_of(server)
    data = log.read_bytes()
    chance = random.Random(namespace)
    for length in [len(data), *(chance.randrange(begin, len(data)) for _ in range(CUTS))]:
        log.write_bytes(data[:length])
        server.start()
        assert world.fsck() == [], f"cut at {length} of {len(data)}"
        left = world.snapshot()
        found.add(frozenset((task_id, task.state) for task_id, task in left.tasks.items()))
        if length == len(data):
            assert left == whole
        work_off(world)
        assert world.fsck() == [], f"cut at {length} of {len(data)}, and worked off"
        assert {task.state for task in world.snapshot().tasks.values()} <= {
            TaskState.FINISHED, TaskState.FAILED, TaskState.CANCELLED
        }  # fmt: skip
        server.kill()
    assert len(found) > 3, "the cuts were at different times"
    world.close()
