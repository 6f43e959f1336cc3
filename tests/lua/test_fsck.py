"""fsck finds what it is there to find: each kind of damage, and nothing in a sound namespace."""

from __future__ import annotations

from collections.abc import Callable
from struct import pack

import pytest

from fairqued.doctor.fsck import CHECKS
from fairqued.doctor.snapshot import ACCOUNT_FORMAT
from fairqued.state import Priority
from tests.support.world import World, limits

Damage = Callable[[World], object]


@pytest.fixture
def busy(damaged_world: World) -> World:
    """A namespace with a task in each state, a parked user, tombstones and two workers."""
    world = damaged_world
    world.limit({"paused": limits(paused=True)})
    world.push("started1", "started2", "finished", "last", "failed", "trimmed", "queued")
    world.push("parked", user="paused")
    world.push("scheduled", due="+9000000")
    world.push("cancelled")
    world.store.cancel(["cancelled"])
    worker = world.worker()
    world.worker("other")
    assert worker.pop(6) == ["started1", "started2", "finished", "last", "failed", "trimmed"]
    worker.finish("trimmed")
    world.trim(finished=(0, 0))
    worker.finish("finished", "last", result=b"1")
    world.push("urgent", user="bob", priority=Priority.CRITICAL)
    worker.fail("failed")
    world.tick("w", "other")
    assert world.fsck() == []
    return world


def command(*words: str | int | bytes) -> Damage:
    """A plain command, its second word a key without prefix."""
    return lambda world: world.command(words[0], world.key(str(words[1])), *words[2:])


def change_record(task_id: str, offset: int, new: bytes) -> Damage:
    return lambda world: world.command("SETRANGE", world.key("task", task_id), offset, new)


ACCOUNT = ACCOUNT_FORMAT.pack(-1.0, 0.0, 10_000.0, 0.0, 9, 9, 9)
NAN_ACCOUNT = ACCOUNT_FORMAT.pack(float("nan"), 0.0, 0.0, 0.0, 0, 0, 0)

DAMAGES: dict[str, tuple[Damage, str]] = {
    "unknown key": (command("SET", "invented", 1), "key invented is in no key table"),
    "wrong type": (command("SET", "depth:x", 1), "key depth:x is in no key table"),
    "another type": (command("SET", "bell:x", 1), "key bell:x is a STRING, expected a ZSET"),
    "unreadable": (command("SET", "task:queued", "x"), "task queued: its record has no valid header"),
    "record gone": (command("DEL", "task:queued"), "task queued has no record, but is in waiting:default:alice"),
    "in no container": (command("ZREM", "scheduled", "scheduled"), "task scheduled is scheduled: expected in"),
    "in two": (command("ZADD", "failed", 0, "queued"), "task queued is queued: expected in waiting"),
    "in two lists": (command("RPUSH", "finished", "finished"), "found in finished, finished"),
    "wrong state": (change_record("queued", 2, b"s"), "expected in scheduled, found in waiting"),
    "wrong score": (command("ZADD", "waiting:default:alice", 5, "queued"), "score in waiting:default:alice of"),
    "wrong critical score": (command("ZADD", "critical:default:bob", 5, "urgent"), "score in critical:default:bob"),
    "wrong due time": (command("ZADD", "scheduled", 5, "scheduled"), "score in scheduled of scheduled: 5"),
    "wrong end": (command("ZADD", "failed", 5, "failed"), "score in failed of failed: 5"),
    "order of ends": (change_record("finished", 49, pack("<d", 9e16)), "not in the order of their end"),
    "no end": (change_record("failed", 49, pack("<d", 0.0)), "task failed is failed, its end is 0"),
    "holder of a waiting one": (change_record("queued", 21, b"\x01"), "task queued is queued, its holder is 1"),
    "reason of a waiting one": (change_record("queued", 5, b"\x01"), "task queued is queued, its reason is error"),
    "hidden without cause": (change_record("queued", 3, b"\x08"), "task queued is hidden, its suspicion is 0"),
    "hidden in vain": (change_record("scheduled", 3, b"\x08"), "task scheduled is scheduled, but still hidden"),
    "settled too far": (change_record("queued", 17, b"\x09"), "fence 9 is settled, but the last one given is 0"),
    "lease gone": (command("ZREM", "workers", "other"), "worker other is registered, but has no lease"),
    "worker gone": (command("DEL", "worker:other"), "worker other has a lease, but is not registered"),
    "worker with tasks gone": (command("ZREM", "workers", "w"), "worker w has no lease, but holds tasks"),
    "dead and alive": (command("ZADD", "dead", 5, "w"), "worker w is registered, but was declared dead"),
    "held by nobody": (command("ZREM", "claims:w", "started1"), "expected in claims:<a worker"),
    "held by another": (change_record("started1", 21, b"\x09"), "expected in claims:<a worker with handle 9>"),
    "claim never made": (command("ZADD", "claims:w", 7, "started1"), "holds tasks of claim 7, its last claim is 1"),
    "shared handle": (command("HSET", "worker:other", "handle", 1), "2 workers share the handle b'1'"),
    "account miscounts": (command("HSET", "account:default", "alice", ACCOUNT), "account of alice in default: running"),
    "account of nobody": (command("HSET", "account:default", "eve", ACCOUNT), "(9, 9, 9), expected (0, 0, 0)"),
    "account damaged": (command("HSET", "account:default", "eve", NAN_ACCOUNT), "account of eve in default is damaged"),
    "account gone": (command("HDEL", "account:default", "bob"), "(0, 0, 0), expected (0, 1, 1)"),
    "account cut": (command("HSET", "account:default", "eve", "x"), "That cannot be told: error: unpack requires"),
    "running is text": (command("HSET", "running", "eve", "x"), "That cannot be told: ValueError: invalid literal"),
    "running miscounts": (command("HSET", "running", "alice", 7), "running: alice has 7, expected 2"),
    "depth miscounts": (command("HSET", "depth", "default", 7), "depth: default has 7, expected 3"),
    "domain miscounts": (command("HSET", "domains", "default", pack("<ddI", 0, 1e18, 77)), "counts 77 open tasks"),
    "largest V is not": (command("HSET", "domains", "default", pack("<ddI", 0, -1e18, 5)), "V is above the largest"),
    "domain gone": (command("HDEL", "domains", "default"), "domain default has accounts, but no clock"),
    "not ready": (command("ZREM", "ready:default", "alice"), "user alice has tasks in default, but is neither"),
    "ready for nothing": (command("ZADD", "ready:default", 0, "eve"), "user eve has no tasks in default, but is ready"),
    "ready and parked": (command("SADD", "parked:alice", "default"), "user alice is both ready and parked in default"),
    "ready too late": (command("ZADD", "ready:default", "1e17", "alice"), "user alice stands at 1e+17 in"),
    "parked unlisted": (command("SREM", "parked", "paused"), "parked users are ['paused'], listed are []"),
    "parked for nothing": (command("DEL", "limits"), "user paused is parked, but may run"),
    "idle for nothing": (command("ZADD", "idle:default", 5, "alice"), "idle:default: alice has 5.0, expected none"),
    "counter is off": (command("HINCRBY", "counters", "enqueued", 1), "by the counters it should be 7"),
    "more ends than starts": (command("HINCRBY", "counters", "started", -5), "more attempts ended than were started"),
    "tombstone without time": (command("DEL", "tombstones_due"), "tombstones without a time, or the reverse"),
    "tombstone of a living": (command("HSET", "tombstones", "queued", "x"), "task queued has a record and a tombstone"),
    "result of a waiting one": (command("SET", "result:queued", 1), "there is a result of task queued"),
    "bell with data": (command("ZADD", "bell:default", 0, "alice"), "the bell of default holds"),
    "spent nonce cut": (command("SET", "spent:queued", "1234567"), "its spent nonces are no multiple of 8 bytes"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "finding"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_found(busy: World, damage: Damage, finding: str) -> None:
    damage(busy)
    findings = busy.fsck()
    assert any(finding in found for found in findings), findings


def test_fsck_changes_nothing(busy: World) -> None:
    before = busy.snapshot()
    busy.fsck()
    assert busy.snapshot() == before


def test_every_check_finds_something_in_these_tests(busy: World) -> None:
    silent = set(CHECKS)
    whole = {key: busy.client.dump(key) for key in busy.client.scan_iter(match=busy.key("*"), count=1000)}
    for damage, finding in DAMAGES.values():
        if not silent:
            return
        if "cannot be told" in finding:
            continue
        damage(busy)
        snapshot = busy.snapshot()
        silent -= {check for check in silent if next(check(snapshot), None)}
        busy.client.delete(*busy.client.scan_iter(match=busy.key("*"), count=1000))
        for key, value in whole.items():
            busy.client.restore(key, 0, value)  # type: ignore[arg-type]
    assert silent == set()
