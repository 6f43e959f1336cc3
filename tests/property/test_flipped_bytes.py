"""Whatever bytes are flipped or cut off in what Redis holds: no script fails, and all other tasks are run (G13).

A version that was flipped upwards cannot be told from a newer one: calls for that task are refused.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairqued.errors import CorruptRecord, SchemaTooNew
from fairqued.state import Priority
from tests.support.servers import RedisServer
from tests.support.world import SimulatedWorker, World, limits

USERS = ("alice", "bob", "carol")
KINDS = ("started", "queued", "urgent", "delayed", "finished", "cancelled", "failed")
FIELDS = {"account:default": USERS, "domains": ("default",), "task": tuple(f"{u}-{k}" for u in USERS for k in KINDS)}


@dataclass(frozen=True)
class Wound:
    """A stored value (a record, or a field of a hash), with some bytes changed and perhaps its end cut off."""

    key: str
    name: str
    flips: tuple[tuple[int, int], ...]
    cut: int

    def inflict(self, world: World) -> None:
        if self.key == "task":
            raw: bytes = world.command("GET", world.key("task", self.name))
            world.command("SET", world.key("task", self.name), self._changed(raw))
        else:
            raw = world.command("HGET", world.key(self.key), self.name)
            world.command("HSET", world.key(self.key), self.name, self._changed(raw))

    def _changed(self, raw: bytes) -> bytes:
        changed = bytearray(raw[: len(raw) - self.cut])
        for position, flip in self.flips:
            if changed:
                changed[position % len(changed)] ^= flip
        return bytes(changed)


places = st.sampled_from([(key, name) for key, names in FIELDS.items() for name in names])
positions = st.sampled_from([*range(86), *[1] * 9])  # often the version
flips = st.lists(st.tuples(positions, st.integers(1, 255)), max_size=4).map(tuple)
cuts = st.sampled_from([0, 0, 1, 8, 40, 80])
wounds = st.lists(
    st.builds(lambda place, flips, cut: Wound(place[0], place[1], flips, cut), places, flips, cuts),
    min_size=1,
    max_size=3,
)


def fill(world: World) -> SimulatedWorker:
    """Each user has a task in each state."""
    worker = world.worker()
    world.limit({"carol": limits(max_running=3)})
    for user in USERS:
        world.push(*(f"{user}-{kind}" for kind in ("started", "finished", "failed")), user=user)
    worker.pop(9)
    for user in USERS:
        worker.finish(f"{user}-finished")
        worker.fail(f"{user}-failed")
        world.push(f"{user}-queued", f"{user}-cancelled", user=user)
        world.push(f"{user}-urgent", user=user, priority=Priority.CRITICAL)
        world.push(f"{user}-delayed", user=user, due="+1000000")
        world.store.cancel([f"{user}-cancelled"])
    world.clock.advance(2)
    return worker


def unless_refused(call: Callable[..., list[str]], *args: Any) -> list[str]:
    """What a call answers; nothing if it meets what seems to be a newer record."""
    try:
        return call(*args)
    except SchemaTooNew:
        return []


def use_every_script(world: World, worker: SimulatedWorker) -> None:
    ids = FIELDS["task"]
    held = [task_id for task_id in ids if task_id.endswith("started")]
    world.store.stats(10)
    world.store.promote(2)
    worker.heartbeat(*held[1:])
    unless_refused(world.store.cancel, [f"{USERS[0]}-delayed", f"{USERS[1]}-urgent"])
    worker.finish(held[1])
    worker.fail(held[2])
    worker.retry(*unless_refused(worker.pop, 2))
    ended = [task_id for task_id in ids if task_id.endswith(("cancelled", "failed"))]
    unless_refused(world.store.retry, world.nonce(), ended)
    world.push("new", user=USERS[0])
    world.limit({})
    world.tick("w")
    world.store.reclaim("w", "death")


def drain(world: World) -> None:
    worker = world.worker("last")
    for _ in range(20):
        world.clock.advance(1)
        worker.finish(*unless_refused(worker.pop, 9))
        world.tick("last")


@given(wounds=wounds)
def check(url: str, wounds: list[Wound]) -> None:
    world = World(url, f"flip-{uuid.uuid4().hex[:8]}")
    worker = fill(world)
    for wound in wounds:
        wound.inflict(world)
    use_every_script(world, worker)
    drain(world)
    hurt = {wound.name for wound in wounds if wound.key == "task"}
    for task_id in {*FIELDS["task"], "new"} - hurt:
        assert world.state(task_id).is_final, task_id
    for task_id in hurt:
        with suppress(CorruptRecord, SchemaTooNew):
            world.store.read(task_id)
    world.trim(finished=(0, 0), failed=(0, 0))
    world.client.delete(*world.client.scan_iter(match=world.key("*"), count=1000))
    world.close()


@pytest.mark.timeout(600)  # a failure takes its time to be made small
def test_no_script_fails_and_no_other_task_is_lost(own_server: RedisServer) -> None:
    check(own_server.url)
