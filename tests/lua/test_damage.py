"""Records that cannot be read end FAILED as `corrupt`, and everything beside them goes on (G13)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fairqued.record import HEADER
from fairqued.state import Priority, Reason, TaskState
from tests.support.simclock import Mutation
from tests.support.world import SimulatedWorker, World, limits

Damage = Callable[[bytes], bytes]


def replaced(name: str, value: object) -> Damage:
    """Another value in one field of the header."""
    names = ("magic", "version", "state", "flags", "priority", "reason", "suspicion", "crashes", "losses", "attempts",
             "failures", "fence", "settled", "holder", "enqueued_at", "due", "started_at", "ended_at")  # fmt: skip

    def damage(raw: bytes) -> bytes:
        fields = list(HEADER.unpack_from(raw))
        fields[names.index(name)] = value
        return HEADER.pack(*fields) + raw[HEADER.size :]

    return damage


UNREADABLE: dict[str, Damage] = {
    "another magic": replaced("magic", b"X"),
    "unknown state": replaced("state", b"?"),
    "unknown priority": replaced("priority", 77),
    "no number as time": replaced("due", float("nan")),
    "endless time": replaced("started_at", float("inf")),
    "no number as end": replaced("ended_at", float("nan")),
    "all bytes flipped": lambda raw: bytes(byte ^ 0xFF for byte in raw),
    "cut in its header": lambda raw: raw[:30],
    "cut in its user": lambda raw: raw[: HEADER.size + 2],
    "one byte": lambda raw: raw[:1],
}
TELLS_NOT_WHOSE = ("all bytes flipped", "cut in its header", "cut in its user", "one byte")
TELLS_WHOSE = {name: damage for name, damage in UNREADABLE.items() if name not in TELLS_NOT_WHOSE}
each_damage = pytest.mark.parametrize("damage", UNREADABLE.values(), ids=UNREADABLE.keys())


def damage_record(world: World, task_id: str, damage: Damage) -> None:
    raw = world.client.get(world.key("task", task_id))
    assert isinstance(raw, bytes)
    world.client.set(world.key("task", task_id), damage(raw))


def assert_corrupt(world: World, task_id: str) -> None:
    record = world.record(task_id)
    assert (record.state, record.reason) == (TaskState.FAILED, Reason.CORRUPT)
    assert record.read_error()["type"] == "CorruptRecord"


@pytest.fixture
def worker(world: World) -> SimulatedWorker:
    return world.worker()


@each_damage
def test_pop_passes_over_it(world: World, worker: SimulatedWorker, damage: Damage) -> None:
    world.push("a", "bad", "c")
    damage_record(world, "bad", damage)
    assert worker.pop(3) == ["a", "c"]
    assert_corrupt(world, "bad")


@pytest.mark.parametrize("length", [1, 5])
def test_pop_passes_over_a_cut_spec(world: World, worker: SimulatedWorker, length: int) -> None:
    world.push("a", "bad", "c")
    damage_record(world, "bad", lambda raw: raw[:-length])
    assert worker.pop(3) == ["a", "c"]
    assert_corrupt(world, "bad")


@pytest.mark.parametrize("name", ["user", "queue"])
def test_pop_passes_over_a_record_of_another_place(world: World, worker: SimulatedWorker, name: str) -> None:
    world.push("bad", "c")
    old, new = {"user": (b"alice", b"alicf"), "queue": (b"default", b"defaulu")}[name]
    damage_record(world, "bad", lambda raw: raw.replace(old, new))
    assert worker.pop(2) == ["c"]
    assert_corrupt(world, "bad")
    assert world.record("bad").user_id == "alice"


def test_pop_passes_over_a_key_of_another_type(world: World, worker: SimulatedWorker) -> None:
    world.push("bad", "c")
    world.client.delete(world.key("task", "bad"))
    world.client.hset(world.key("task", "bad"), "x", "y")
    assert worker.pop(2) == ["c"]
    assert_corrupt(world, "bad")


def test_pop_passes_over_a_record_that_is_gone(damaged_world: World) -> None:
    damaged_world.push("gone", "c")
    damaged_world.client.delete(damaged_world.key("task", "gone"))
    assert damaged_world.worker().pop(2) == ["c"]
    assert [finding for finding in damaged_world.fsck() if "have not ended" not in finding] == []


@each_damage
def test_promote_passes_over_it(world: World, damage: Damage) -> None:
    world.push("bad", "c", due="+1000")
    damage_record(world, "bad", damage)
    world.clock.advance(1)
    assert world.store.promote()[0] == 2
    assert_corrupt(world, "bad")
    assert world.state("c") is TaskState.QUEUED


@each_damage
def test_cancel_of_a_delayed_one_ends_it(world: World, damage: Damage) -> None:
    world.push("bad", "c", due="+1000")
    damage_record(world, "bad", damage)
    assert world.store.cancel(["bad", "c"]) == ["corrupt", "cancelled"]
    assert_corrupt(world, "bad")


@each_damage
def test_cancel_of_a_waiting_one_ends_it_at_the_latest_when_its_turn_comes(world: World, damage: Damage) -> None:
    world.push("bad", "c")
    damage_record(world, "bad", damage)
    assert world.store.cancel(["bad", "c"]) == ["corrupt", "cancelled"]
    world.worker().pop(1)
    assert_corrupt(world, "bad")


@pytest.mark.parametrize("damage", TELLS_WHOSE.values(), ids=TELLS_WHOSE.keys())
@pytest.mark.parametrize("priority", [Priority.NORMAL, Priority.CRITICAL])
def test_cancel_of_a_waiting_one_that_tells_whose_it_is_ends_it(
    world: World, damage: Damage, priority: Priority
) -> None:
    world.push("bad", priority=priority)
    damage_record(world, "bad", damage)
    assert world.store.cancel(["bad"]) == ["corrupt"]
    assert_corrupt(world, "bad")


def ends_by_finish(world: World, worker: SimulatedWorker) -> None:
    assert worker.finish("bad", "c") == ["corrupt", "finished"]


def ends_by_fail(world: World, worker: SimulatedWorker) -> None:
    assert worker.fail("bad", "c") == ["corrupt", "failed"]


def ends_by_reclaim(world: World, worker: SimulatedWorker) -> None:
    assert world.store.reclaim("w", "death") == (2, 0)
    assert world.state("c") is TaskState.QUEUED


def ends_by_heartbeat(world: World, worker: SimulatedWorker) -> None:
    worker.heartbeat()
    assert world.state("c") is TaskState.QUEUED


@pytest.mark.parametrize("end", [ends_by_finish, ends_by_fail, ends_by_reclaim, ends_by_heartbeat])
@pytest.mark.parametrize("damage", TELLS_WHOSE.values(), ids=TELLS_WHOSE.keys())
def test_a_started_one_gives_its_slot_back(
    world: World, worker: SimulatedWorker, damage: Damage, end: Callable[[World, SimulatedWorker], None]
) -> None:
    world.limit({"alice": limits(max_running=2)})
    world.push("bad", "c", "next1", "next2")
    worker.pop(2)
    damage_record(world, "bad", damage)
    end(world, worker)
    assert_corrupt(world, "bad")
    assert len(world.worker("other").pop(4)) == 2


@pytest.mark.parametrize("end", [ends_by_finish, ends_by_fail, ends_by_reclaim, ends_by_heartbeat])
@pytest.mark.parametrize("name", TELLS_NOT_WHOSE)
def test_a_started_one_that_does_not_tell_whose_it_was_gives_its_slot_back_with_the_next_tick(
    world: World, worker: SimulatedWorker, name: str, end: Callable[[World, SimulatedWorker], None]
) -> None:
    world.limit({"alice": limits(max_running=2)})
    world.push("bad", "c", "next1", "next2")
    worker.pop(2)
    damage_record(world, "bad", UNREADABLE[name])
    end(world, worker)
    assert_corrupt(world, "bad")
    assert [finding.split()[0] for finding in world.fsck()] == ["account", "running:"]
    other = world.worker("other")
    assert len(other.pop(4)) == 1
    world.tick("w", "other")
    assert world.fsck() == []
    assert len(other.pop(4)) == 1


def test_a_started_one_that_names_somebody_else_costs_nobody_a_slot(world: World, worker: SimulatedWorker) -> None:
    world.push("bad", "c")
    world.push("d", "e", user="carol")
    world.push("f", user="carol", queue="mail")
    worker.pop(5, ["default", "mail"])
    damage_record(world, "bad", lambda raw: b"X" + raw[1:].replace(b"alice", b"carol"))
    assert worker.finish("bad") == ["corrupt"]
    assert world.snapshot().numbers("running") == {"alice": 2, "carol": 2}
    world.tick("w")
    assert world.snapshot().numbers("running") == {"alice": 1, "carol": 3}
    assert worker.finish("c", "d", "e", "f") == ["finished"] * 4


def test_what_else_cannot_be_read_does_not_mislead_the_count(world: World, worker: SimulatedWorker) -> None:
    world.push("bad", "worse", "worst", "c")
    world.push("d", user="bob")
    worker.pop(5)
    damage_record(world, "bad", UNREADABLE["one byte"])
    damage_record(world, "worse", UNREADABLE["cut in its user"])
    damage_record(world, "worst", UNREADABLE["another magic"])
    worker.finish("bad")
    world.tick("w")
    assert world.snapshot().numbers("running") == {"alice": 2, "bob": 1}
    assert worker.finish("worse", "worst", "c", "d") == ["corrupt", "corrupt", "finished", "finished"]
    world.tick("w")


def test_a_count_that_would_take_too_long_is_left_to_fsck(redis_url: str, namespace: str) -> None:
    world = World(redis_url, namespace, Mutation("lib/recount", "AT_MOST = 2000", "AT_MOST = 2"))
    world.push("bad", "c", "d", "e")
    worker = world.worker()
    worker.pop(4)
    damage_record(world, "bad", UNREADABLE["one byte"])
    worker.finish("bad")
    world.tick("w")
    assert world.snapshot().numbers("running") == {"alice": 4}
    assert "recount" not in world.snapshot().hash("meta")
    world.close()


@each_damage
def test_a_late_completion_leaves_a_waiting_one_alone(world: World, worker: SimulatedWorker, damage: Damage) -> None:
    world.push("bad")
    worker.pop()
    worker.retry("bad")
    damage_record(world, "bad", damage)
    assert worker.finish("bad") == ["stale"]
    assert world.store.promote()[0] == 1
    assert_corrupt(world, "bad")


@each_damage
def test_it_cannot_be_retried_nor_replaced(world: World, worker: SimulatedWorker, damage: Damage) -> None:
    world.push("bad")
    damage_record(world, "bad", damage)
    assert world.store.retry(world.nonce(), ["bad"]) == ["corrupt"]
    worker.pop()
    assert world.store.retry(world.nonce(), ["bad"]) == ["refused"]
    assert_corrupt(world, "bad")


@each_damage
def test_a_finished_one_is_trimmed(damaged_world: World, damage: Damage) -> None:
    worker = damaged_world.worker()
    damaged_world.push("bad", "c")
    worker.pop(2)
    worker.finish("bad", "c")
    damage_record(damaged_world, "bad", damage)
    assert damaged_world.store.cancel(["bad"]) == ["corrupt"]
    assert damaged_world.trim(finished=(0, 0)) == (2, 0)
    assert damaged_world.fsck() == []


def test_attempts_are_counted_up_to_what_a_record_holds(world: World, worker: SimulatedWorker) -> None:
    world.push("a")
    damage_record(world, "a", replaced("attempts", 65535))
    worker.pop()
    assert world.record("a").attempts == 65535


@pytest.mark.parametrize("packed", [b"", b"short", b"\xff" * 44, b"\xff" * 60])
@pytest.mark.parametrize("field", ["account", "domain"])
def test_a_damaged_account_does_not_stop_the_queue(damaged_world: World, field: str, packed: bytes) -> None:
    damaged_world.push("a", "b")
    damaged_world.push("c", priority=Priority.CRITICAL)
    damaged_world.push("d", user="bob")
    if field == "account":
        damaged_world.client.hset(damaged_world.key("account", "default"), "alice", packed)
    else:
        damaged_world.client.hset(damaged_world.key("domains"), "default", packed)
    worker = damaged_world.worker()
    assert sorted(worker.pop(4)) == ["a", "b", "c", "d"]
    assert set(worker.finish("a", "b", "c", "d")) == {"finished"}


def test_an_account_that_knows_of_no_critical_tasks_does_not_hang_the_server(damaged_world: World) -> None:
    damaged_world.push("a")
    damaged_world.client.zadd(damaged_world.key("critical", "default", "bob"), {"ghost": 0})
    damaged_world.client.zadd(damaged_world.key("ready", "default"), {"bob": -1})
    assert damaged_world.worker().pop(4) == ["a"]
    assert damaged_world.snapshot().ready == set()


def test_a_user_who_is_ready_without_tasks_does_not_hang_the_server(damaged_world: World) -> None:
    damaged_world.push("a")
    damaged_world.client.zadd(damaged_world.key("ready", "default"), {"bob": -1})
    assert damaged_world.worker().pop(4) == ["a"]
    assert damaged_world.fsck() == []
