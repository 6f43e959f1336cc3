"""Records of other schema versions: older ones are read, newer ones are left alone and called so (DESIGN section 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from fairqued.errors import CorruptRecord, FairquedError, SchemaTooNew
from fairqued.record import HIDDEN, SCHEMA_VERSION, Record
from fairqued.state import Priority, Reason, TaskState
from tests.support.simclock import CLOCK_KEY, Mutation
from tests.support.world import DEDUP_US, FOREVER_US, NewTaskOptions, SimulatedWorker, World, new_task

NEWER = Mutation("lib/record", f"VERSION = {SCHEMA_VERSION},", f"VERSION = {SCHEMA_VERSION + 1},")
REFUSED = rf"task newer: its record has schema version {SCHEMA_VERSION + 1}, this side knows {SCHEMA_VERSION}$"

# As the release before wrote them.
VERSION_1 = {
    "queued": bytes.fromhex(
        "46017100020000000000000000000000000000000000000000000079609028184300007960"
        "90281843000000000000000000000000000000000000000000000001050007000018000000"
    )
    + b'alicedefault{"func":"tests:nothing"}',
    "scheduled": bytes.fromhex(
        "460173000200000000000000000000000000000000000000000000796090281843002daa61"
        "90281843000000000000000000000000000000000000000000000002050007000018000000"
    )
    + b'alicedefault{"func":"tests:nothing"}',
    "started": bytes.fromhex(
        "46017204030000000001000000010000000000000001000000000079609028184300007960"
        "90281843000079609028184300000000000000000000000000000003030004000018000000"
    )
    + b'bobmail{"func":"tests:nothing"}',
    "failed": bytes.fromhex(
        "46017804030100000001000100010000000100000000000000000079609028184304007960"
        "902818430000796090281843000079609028184300000000000000030300040c0018000000"
    )
    + b'bobmail{"func":"tests:nothing"}{"type":"E"}',
}


def raw(world: World, task_id: str) -> bytes:
    found: bytes = world.command("GET", world.key("task", task_id))
    return found


def version(world: World, task_id: str) -> int:
    return raw(world, task_id)[1]


# Older ones


@pytest.fixture
def worker(world: World) -> SimulatedWorker:
    """A worker of the release before, in a namespace of it."""
    world.push("queued")
    world.push("scheduled", due="+5000000")
    bobs: NewTaskOptions = {"user": "bob", "queue": "mail", "priority": Priority.HIGH, "has_own_id": True}
    world.push("started", "failed", **bobs)
    worker = world.worker()
    assert worker.pop(2, ["mail"]) == ["started", "failed"]
    worker.fail("failed", error=b'{"type":"E"}')
    for task_id, old in VERSION_1.items():
        assert bytes([SCHEMA_VERSION]).join((old[:1], old[2:])) == raw(world, task_id)
        world.client.set(world.key("task", task_id), old)
    return worker


def test_older_records_are_read(world: World, worker: SimulatedWorker) -> None:
    assert {task_id: world.state(task_id).value for task_id in VERSION_1} == {each: each for each in VERSION_1}
    assert world.record("failed").read_error() == {"type": "E"}
    assert world.record("started").read_spec() == {"func": "tests:nothing"}


def test_older_records_go_on_as_present_ones(world: World, worker: SimulatedWorker) -> None:
    world.clock.advance(6)
    assert worker.pop(9) == ["queued", "scheduled"]
    assert worker.finish("queued", "started") == ["finished", "finished"]
    assert worker.fail("scheduled") == ["failed"]
    assert world.store.retry(world.nonce(), ["failed"]) == ["queued"]
    assert {version(world, task_id) for task_id in VERSION_1} == {SCHEMA_VERSION}


def test_what_only_present_records_hold_is_added_to_older_ones(world: World, worker: SimulatedWorker) -> None:
    world.store.reclaim("w", "death")
    world.worker("next").pop(1, ["mail"])
    world.store.reclaim("next", "death")
    assert world.record("started").waits_in == "mail!"
    assert world.store.cancel(["queued", "scheduled"]) == ["cancelled", "cancelled"]
    assert {version(world, task_id) for task_id in VERSION_1} == {SCHEMA_VERSION, 1}


@pytest.mark.parametrize("damage", [b"\x00r\x00", bytes([1, ord("r"), HIDDEN])])
def test_what_no_older_release_can_have_written_is_corrupt(
    world: World, worker: SimulatedWorker, damage: bytes
) -> None:
    world.command("SETRANGE", world.key("task", "started"), 1, damage)
    with pytest.raises(CorruptRecord):
        world.record("started")
    assert worker.finish("started") == ["corrupt"]
    assert world.record("started").reason is Reason.CORRUPT


# Newer ones: the present side meets what a future one wrote


@pytest.fixture
def present(damaged_world: World) -> World:
    return damaged_world


@pytest.fixture
def future(redis_url: str, present: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A future side for which all has to be sound when the test is over."""
    world = future_beside(present, redis_url)
    yield world
    monkeypatch.setattr("fairqued.record.SCHEMA_VERSION", SCHEMA_VERSION + 1)
    findings = world.fsck()
    world.close()
    assert findings == []


def future_beside(present: World, redis_url: str) -> World:
    """The scripts of this release with a higher version, in the same namespace."""
    world = World(redis_url, present.namespace, NEWER)
    world.clock = present.clock
    return world


def dumps(world: World) -> dict[bytes, bytes]:
    """All that a namespace holds, byte by byte."""
    keys = sorted(world.client.scan_iter(match=world.key("*"), count=1000))
    return {key: world.command("DUMP", key) for key in keys if not key.endswith(CLOCK_KEY.encode())}


def seen_by_future(task_id: str, raw: bytes) -> Record:
    """A record as a future side reads it, which knows the same fields."""
    return Record.parse(task_id, raw[:1] + bytes([SCHEMA_VERSION]) + raw[2:])


def state_in_future(world: World, task_id: str) -> TaskState:
    return seen_by_future(task_id, raw(world, task_id)).state


def pop(present: World) -> object:
    return present.store.pop("w", 2, 9, ["default"])


def cancel(present: World) -> object:
    return present.store.cancel(["own", "newer"])


def retry(present: World) -> object:
    return present.store.retry(b"nonce..8", ["failed", "newer"])


def push(present: World) -> object:
    return present.store.push(b"nonce..8", "raise", [new_task("another"), new_task("newer")])


def replace(present: World) -> object:
    return present.store.push(b"nonce..8", "replace", [new_task("another"), new_task("newer")])


def read(present: World) -> object:
    return present.record("newer")


@pytest.mark.parametrize("call", [pop, cancel, retry, push, replace, read])
def test_a_call_for_a_newer_record_is_refused_and_changes_nothing(
    present: World, future: World, call: Callable[[World], object]
) -> None:
    worker = present.worker()
    present.push("failed")
    worker.pop()
    worker.fail("failed")
    present.push("own", due="+9000000")
    future.push("newer")
    before = dumps(present)
    with pytest.raises(SchemaTooNew, match=REFUSED):
        call(present)
    assert dumps(present) == before
    assert future.worker("future").pop(9) == ["newer"]


def test_a_newer_record_exists_for_who_does_not_mind(present: World, future: World) -> None:
    future.push("newer")
    before = dumps(present)
    assert present.store.push(present.nonce(), "ignore", [new_task("newer")]) == ["exists"]
    assert dumps(present) == before


# Pop


def test_pop_serves_whoever_stands_behind(present: World, future: World) -> None:
    future.push("newer", "newer2")
    present.clock.advance(1)
    present.push("behind")
    future.push("urgent", priority=Priority.CRITICAL)
    present.push("bob's", user="bob")
    present.push("mail", queue="mail")
    worker = present.worker()
    assert sorted(worker.pop(9, ["default", "mail"])) == ["behind", "bob's", "mail"]
    with pytest.raises(SchemaTooNew, match=r"task (urgent|newer): "):
        worker.pop(9, ["default", "mail"])
    assert present.snapshot().ready == {("default", "alice")}
    assert worker.finish("behind", "bob's", "mail") == ["finished"] * 3
    present.push("latest")
    assert future.worker("future").pop(9) == ["urgent", "newer", "newer2", "latest"]


def test_a_refused_pop_uses_up_no_number(present: World, future: World) -> None:
    future.push("newer")
    worker = present.worker()
    with pytest.raises(SchemaTooNew):
        worker.pop(claim=1)
    present.push("own", user="bob")
    assert worker.pop(claim=1) == ["own"]
    assert worker.pop(claim=1) == ["own"]


def test_a_refused_pop_wakes_another_worker(present: World, future: World) -> None:
    future.push("newer")
    worker = present.worker()
    present.client.delete(present.key("bell", "default"))
    with pytest.raises(SchemaTooNew):
        worker.pop()
    assert present.snapshot().zset("bell", "default") == {"1": 0.0}


def test_pop_parks_a_user_whose_newer_work_it_passed_over(present: World, future: World) -> None:
    present.limit({"alice": b'{"max_running":{"value":1,"origin":"yaml"}}'})
    future.push("newer")
    present.clock.advance(1)
    present.push("a", "b")
    present.push("c", user="bob")
    worker = present.worker()
    assert sorted(worker.pop(9)) == ["a", "c"]
    snapshot = present.snapshot()
    assert (snapshot.parked, snapshot.ready) == ({("default", "alice")}, set())
    worker.finish("a")
    assert future.worker("future").pop(1) == ["newer"]


def test_pop_looks_at_so_many_at_most(present: World, future: World) -> None:
    future.push(*(f"newer{number:03}" for number in range(150)))
    present.clock.advance(1)
    present.push("own")
    with pytest.raises(SchemaTooNew):
        present.worker().pop()
    future_worker = future.worker("future")
    assert len(future_worker.pop(100)) == 100
    assert present.worker("next").pop() == ["own"]
    assert len(future_worker.pop(100)) == 50


# What a worker holds


@pytest.fixture
def holder(present: World, future: World) -> SimulatedWorker:
    return holding(present, future)


def holding(present: World, future: World) -> SimulatedWorker:
    """A present worker that holds `newer`, since a future client asked to cancel it, and `own`."""
    present.push("newer", "own")
    worker = present.worker()
    worker.pop(2)
    assert future.store.cancel(["newer"]) == ["asked"]
    return worker


@pytest.mark.parametrize("end", [SimulatedWorker.finish, SimulatedWorker.fail, SimulatedWorker.retry])
def test_a_completion_is_refused_alone(present: World, holder: SimulatedWorker, end: Callable[..., list[str]]) -> None:
    before = raw(present, "newer")
    refused, other = end(holder, "newer", "own")
    assert refused.startswith("SCHEMA task newer: ")
    assert other in ("finished", "failed", "scheduled")
    assert raw(present, "newer") == before
    assert present.snapshot().claims == {"w": {"newer": 1}}


def test_heartbeat_leaves_it_alone(present: World, holder: SimulatedWorker) -> None:
    before = raw(present, "newer")
    assert holder.heartbeat("newer", "own") == []
    assert holder.heartbeat("own") == []
    assert raw(present, "newer") == before
    assert present.snapshot().claims == {"w": {"newer": 1, "own": 1}}


def test_a_repeated_pop_does_not_answer_it(holder: SimulatedWorker) -> None:
    assert holder.pop(2, claim=1) == ["own"]


# Dead workers


def test_reclaim_leaves_it_to_the_tick_of_a_future_side(present: World, future: World, holder: SimulatedWorker) -> None:
    before = raw(present, "newer")
    assert present.store.reclaim("w", "death", most=1) == (0, 1)
    assert present.store.reclaim("w", "death", most=1) == (1, 0)
    assert present.store.reclaim("w", "death", most=1) == (0, 0)
    assert raw(present, "newer") == before
    assert present.state("own") is TaskState.QUEUED
    for _ in range(3):
        present.clock.advance(1)
        assert present.tick() == (True, 0, [], [])
    assert future.tick() == (True, 1, ["w"], [])
    assert state_in_future(future, "newer") is TaskState.CANCELLED


def test_newer_records_of_many_dead_workers_do_not_keep_others_from_being_judged(present: World, future: World) -> None:
    present.push(*map(str, range(12)))
    for number in range(12):
        present.worker(f"w{number}", lease_us=1_000_000).pop()
    assert future.store.cancel([str(number) for number in range(12)]) == ["asked"] * 12
    present.push("last")
    present.worker("w12", lease_us=1_500_000).pop()
    present.clock.advance(2)
    assert present.tick() == (True, 1, ["w12"], [])
    assert present.tick() == (True, 0, [], [])
    assert present.state("last") is TaskState.QUEUED
    assert [future.tick().put_back for _ in range(3)] == [10, 2, 0]


# Chores


def test_promote_passes_it_over(present: World, future: World) -> None:
    future.push("newer", due="+1000000")
    present.push("own", due="+2000000")
    present.push("later", due="+9000000")
    present.clock.advance(3)
    before = raw(present, "newer")
    assert present.store.promote() == (1, 6.0)
    assert present.store.promote() == (0, 6.0)
    assert raw(present, "newer") == before
    worker = present.worker()
    assert worker.pop(9) == ["own"]
    assert future.store.promote() == (1, 6.0)
    assert future.worker("future").pop(9) == ["newer"]


def test_promote_does_not_spin_where_newer_ones_are_all_it_sees(present: World, future: World) -> None:
    future.push(*map(str, range(20)), due="+1000")
    present.clock.advance(1)
    assert present.store.promote(most=16) == (0, 1.0)
    present.worker()
    assert present.store.pop("w", 1, 1, ["default"]).next_due_seconds == 1.0
    assert future.store.promote(most=200)[0] == 20


def test_trim_drops_the_others_and_keeps_the_order(present: World, future: World) -> None:
    here, there = present.worker(), future.worker("future")
    for number in range(3):
        for world, worker in ((present, here), (future, there)):
            name = f"{worker.name}{number}"
            world.push(f"{name}-finished", f"{name}-failed", f"{name}-cancelled")
            world.store.cancel([f"{name}-cancelled"])
            assert worker.pop(2) == [f"{name}-finished", f"{name}-failed"]
            worker.finish(f"{name}-finished")
            worker.fail(f"{name}-failed")
            world.clock.advance(1)
    newer = [f"future{number}" for number in range(3)]
    assert present.trim(finished=(0, 0), failed=(0, 0)) == (9, 0)
    assert present.trim(finished=(0, 0), failed=(0, 0)) == (0, 0)
    snapshot = present.snapshot()
    assert snapshot.list("finished") == [f"{name}-finished" for name in newer]
    assert list(snapshot.zset("failed")) == [f"{name}-failed" for name in newer]
    assert list(snapshot.zset("cancelled")) == [f"{name}-cancelled" for name in newer]
    assert future.store.trim((0, FOREVER_US), (0, FOREVER_US), DEDUP_US, DEDUP_US) == (9, 0)


# Both sides at work


def test_an_old_client_with_a_new_daemon(present: World, future: World) -> None:
    assert present.push("newer", "waits") == ["queued", "queued"]
    worker = future.worker("future")
    assert worker.pop() == ["newer"]
    with pytest.raises(SchemaTooNew, match=REFUSED):
        present.record("newer")
    with pytest.raises(SchemaTooNew, match=REFUSED):
        present.store.cancel(["newer"])
    assert present.store.cancel(["waits"]) == ["cancelled"]
    assert worker.finish("newer", result=b"1") == ["finished"]
    assert state_in_future(future, "newer") is TaskState.FINISHED


def test_a_new_client_with_an_old_daemon(present: World, future: World) -> None:
    worker = present.worker()
    future.push("newer")
    present.push("own")
    assert worker.pop() == ["own"]
    with pytest.raises(SchemaTooNew, match=REFUSED):
        worker.pop()
    present.tick("w")
    assert worker.finish("own") == ["finished"]
    future.tick("w")
    assert future.worker("future").pop() == ["newer"]


# Tests that can fail

Story = Callable[[World, World], None]


def story_of_reclaim(present: World, future: World) -> None:
    test_reclaim_leaves_it_to_the_tick_of_a_future_side(present, future, holding(present, future))


def story_of_heartbeat(present: World, future: World) -> None:
    test_heartbeat_leaves_it_alone(present, holding(present, future))


def story_of_finish(present: World, future: World) -> None:
    test_a_completion_is_refused_alone(present, holding(present, future), SimulatedWorker.finish)


def story_of_cancel(present: World, future: World) -> None:
    test_a_call_for_a_newer_record_is_refused_and_changes_nothing(present, future, cancel)


BROKEN: dict[str, tuple[Mutation, Story]] = {
    "reclaim stops at it": (Mutation("lib/release", "'XX', '+inf', id", "'XX', 0, id"), story_of_reclaim),
    "heartbeat puts it back": (Mutation("heartbeat", "if t and t.newer then return end", ""), story_of_heartbeat),
    "finish finds it stale": (Mutation("lib/attempt", "if t.newer then return 'newer' end", ""), story_of_finish),
    "cancel overlooks it": (Mutation("lib/batch", "if t and t.newer then", "if false then"), story_of_cancel),
    "pop loses it": (
        Mutation("pop", "for _, p in ipairs(passed) do", "for _, p in ipairs({}) do"),
        test_pop_serves_whoever_stands_behind,
    ),
    "pop puts it elsewhere": (
        Mutation("pop", "p.score, p.t.id", "clock.now + 1e7, p.t.id"),
        test_pop_serves_whoever_stands_behind,
    ),
    "pop uses up the number": (
        Mutation(
            "pop",
            "if count == 0 and",
            "redis.call('HSET', key.of('worker', worker), 'claim', claim)\nif count == 0 and",
        ),
        test_a_refused_pop_uses_up_no_number,
    ),
    "pop makes its user ready beside parked": (
        Mutation("lib/ready", "  if ready.is_parked(a, queue) then return end\n", "\n"),
        test_pop_parks_a_user_whose_newer_work_it_passed_over,
    ),
    "promote stops at it": (Mutation("lib/promote", "passed, passed, 'W", "0, 0, 'W"), test_promote_passes_it_over),
    "promote spins": (
        Mutation("lib/promote", "or clock.now + promote.LOOK_AGAIN_AFTER", "or clock.now"),
        test_promote_does_not_spin_where_newer_ones_are_all_it_sees,
    ),
    "trim forgets it": (
        Mutation("trim", "if #newer > 0 then", "if false then"),
        test_trim_drops_the_others_and_keeps_the_order,
    ),
    "trim turns the order": (
        Mutation("trim", "table.insert(newer, 1, id)", "table.insert(newer, id)"),
        test_trim_drops_the_others_and_keeps_the_order,
    ),
}


@pytest.mark.parametrize(("mutation", "story"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_script_is_noticed(redis_url: str, namespace: str, mutation: Mutation, story: Story) -> None:
    sound = World(redis_url, f"{namespace}-sound")
    story(sound, future_beside(sound, redis_url))
    broken = World(redis_url, namespace, mutation)
    with pytest.raises((AssertionError, FairquedError, pytest.fail.Exception)):
        story(broken, future_beside(broken, redis_url))
