"""Ids are data: whatever they hold, they name one task and one user, and never a pattern."""

from __future__ import annotations

import pytest

from fairqued.state import Priority
from tests.support.world import World, limits

HOSTILE = [
    "a b", "{}", "{fairque}:meta", "}{", "*", "?[a-z]", "\\", ":", "a:b:c", "'; return 1 --", '"', "%s%d", "ä",
    "日本語", "🙂", "e\u0301", "\u00e9", "\u202e", "nil", "0", "-1", "1e3", "x" * 200, "日" * 200, "🙂" * 200,
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_id_goes_through_its_life(world: World, name: str) -> None:
    world.limit({name: limits(max_running=1)})
    worker = world.worker(name)
    world.push(name, user=name)
    world.push("delayed", user=name, due="+1000000")
    world.push("urgent", user=name, priority=Priority.CRITICAL)
    assert worker.pop(3) == ["urgent"]
    assert world.fsck() == []
    assert worker.heartbeat("urgent") == []
    assert worker.finish("urgent", result=b"1") == ["finished"]
    assert worker.pop(3) == [name]
    assert world.record(name).user_id == name
    assert world.store.cancel([name]) == ["asked"]
    assert world.store.reclaim(name, "lost") == (1, 0)
    assert world.store.retry(world.nonce(), [name]) == ["queued"]
    world.clock.advance(1)
    assert world.store.promote()[0] == 1
    assert world.store.cancel([name, "delayed"]) == ["cancelled", "cancelled"]
    assert world.trim(finished=(0, 0)) == (3, 0)


def test_ids_that_look_alike_are_different(world: World) -> None:
    assert world.push("e\u0301", "\u00e9") == ["queued", "queued"]
    world.push("x", user="a")
    world.push("y", user="a:b")
    world.push("z", user="A")
    assert sorted(world.worker().pop(9)) == sorted(["e\u0301", "\u00e9", "x", "y", "z"])


def test_a_namespace_may_look_like_a_pattern(redis_url: str, namespace: str) -> None:
    plain, pattern = World(redis_url, f"{namespace}ab"), World(redis_url, f"{namespace}[a]*")
    for world in (plain, pattern):
        world.push(world.namespace)
    for world in (plain, pattern):
        assert set(world.snapshot().tasks) == {world.namespace}
        assert world.worker().pop(9) == [world.namespace]
        assert world.fsck() == []
        world.close()


def test_every_key_carries_the_hash_tag(own_server_world: World) -> None:
    world = own_server_world
    world.limit({"alice": limits(paused=True)})
    world.push("a")
    world.push("b", "c", "d", user="bob")
    world.push("later", due="+1000")
    worker = world.worker()
    worker.pop(3)
    worker.finish("b", result=b"1")
    worker.fail("c")
    world.store.cancel(["a"])
    world.tick("w")
    world.trim(finished=(0, 0))
    keys: list[bytes] = world.command("KEYS", "*")
    assert [key for key in keys if not key.startswith(f"{{{world.namespace}}}:".encode())] == []
    assert world.fsck() == []
