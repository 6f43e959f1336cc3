"""A task that kills its process is found out, and nobody else pays for it (G5)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from fairqued.errors import FairquedError
from fairqued.keys import hidden_queue
from fairqued.record import Record
from fairqued.state import Priority, Reason, TaskState
from fairqued.store import Ended
from tests.support.simclock import Mutation
from tests.support.world import SimulatedWorker, World, limits, new_task

HIDDEN = hidden_queue("default")
SIGNAL = b'{"type":"ProcessDied","message":"its process was sent SIGSEGV"}'
INNOCENT = tuple(f"innocent{number}" for number in range(1, 8))


def dies(world: World, *task_ids: str, why: str = "death", queue: str = "default", most: int = 8) -> SimulatedWorker:
    """A new worker takes `task_ids`, and dies of it."""
    number = len(world.snapshot().zset("dead"))
    worker = world.worker(f"dead{number}")
    assert worker.pop(most, [queue]) == list(task_ids)
    world.store.reclaim(worker.name, why, max_crashes=3, error=SIGNAL)
    return worker


def hide(world: World, *task_ids: str) -> None:
    """Let tasks that wait be in two processes that die."""
    dies(world, *task_ids)
    dies(world, *task_ids)
    assert all(world.record(task_id).is_hidden for task_id in task_ids)


def charges(record: Record) -> dict[str, int]:
    """Whatever is held against a task."""
    names = ("failures", "suspicion", "crashes", "losses", "is_hidden")
    return {name: getattr(record, name) for name in names if getattr(record, name)}


# The whole story


def test_one_poison_among_seven_innocents(world: World) -> None:
    tasks = (*INNOCENT[:3], "poison", *INNOCENT[3:])
    world.push(*tasks)
    hide(world, *tasks)
    world.push("late")
    assert world.tick().hidden == ["default"]
    assert world.worker().pop(9) == ["late"]

    nursery = world.worker("nursery0")
    while world.tick().hidden:
        [task_id] = nursery.pop(1, [HIDDEN])
        if task_id == "poison":
            world.store.reclaim(nursery.name, "crash", max_crashes=3, error=SIGNAL)
            nursery = world.worker(f"nursery{world.record('poison').crashes}")
        else:
            assert nursery.finish(task_id) == ["finished"]

    poison = world.record("poison")
    assert (poison.state, poison.reason, poison.error) == (TaskState.FAILED, Reason.POISONED, SIGNAL)
    assert (poison.crashes, poison.attempts) == (3, 5)
    for task_id in INNOCENT:
        innocent = world.record(task_id)
        assert (innocent.state, charges(innocent), innocent.error) == (TaskState.FINISHED, {}, b"")


def test_one_death_delays_nobody(world: World) -> None:
    world.push("a", "b", "c")
    world.push("urgent", priority=Priority.CRITICAL)
    order = world.worker().pop(9)
    world.clock.advance(1)
    world.push("later")
    world.store.reclaim("w", "death")
    assert world.tick().hidden == []
    assert world.worker("next").pop(9) == [*order, "later"]


# Where a hidden task waits


def test_a_hidden_task_keeps_its_place_among_the_hidden(world: World) -> None:
    for task_id in ("z", "y", "x"):
        world.push(task_id)
        world.clock.advance(1)
    hide(world, "z", "y", "x")
    worker = world.worker()
    assert worker.pop(2, [HIDDEN]) == ["z", "y"]
    world.store.reclaim("w", "drain")
    assert world.worker("next").pop(3, [HIDDEN]) == ["z", "y", "x"]


def test_clients_see_the_queue_that_they_named(world: World) -> None:
    world.push("a", queue="mail")
    dies(world, "a", queue="mail")
    dies(world, "a", queue="mail")
    record = world.record("a")
    assert (record.queue, record.waits_in) == ("mail", "mail!")


def test_only_a_worker_that_asks_for_it_is_given_hidden_work(world: World) -> None:
    world.push("a")
    world.push("b", queue="mail")
    hide(world, "a")
    worker = world.worker()
    assert worker.pop(9, ["default", "mail"]) == ["b"]
    assert worker.pop(9, [hidden_queue("mail"), HIDDEN]) == ["a"]


def test_tick_names_only_queues_that_it_was_asked_for(world: World) -> None:
    world.push("a")
    hide(world, "a")
    assert world.tick(queues=()).hidden == []
    assert world.tick(queues=("mail", "default")).hidden == ["default"]


def test_hidden_work_rings_its_own_bell_and_has_its_own_depth(world: World) -> None:
    world.push("a")
    dies(world, "a")
    world.client.delete(world.key("bell", "default"))
    dies(world, "a")
    assert set(world.snapshot().rest_of("bell")) == {HIDDEN}
    assert world.store.stats(9)[2] == [HIDDEN.encode(), b"1"]
    assert [row[:3] for row in world.store.stats(9)[5]] == [[HIDDEN.encode(), b"alice", 1]]


def test_a_user_has_one_account_for_both(world: World) -> None:
    world.limit({"alice": limits(max_running=1)})
    world.push("a")
    hide(world, "a")
    world.push("b")
    worker = world.worker()
    assert worker.pop(1) == ["b"]
    assert worker.pop(1, [HIDDEN]) == []
    assert world.snapshot().parked == {(HIDDEN, "alice")}
    assert world.tick("w").hidden == []
    worker.finish("b")
    assert world.tick("w").hidden == ["default"]
    assert worker.pop(1, [HIDDEN]) == ["a"]
    assert {domain for domain, _ in world.snapshot().accounts} == {"default"}


def test_urgent_hidden_work_goes_first_there(world: World) -> None:
    world.push("a")
    world.push("urgent", priority=Priority.CRITICAL)
    hide(world, "urgent", "a")
    assert world.worker().pop(1, [HIDDEN]) == ["urgent"]


def test_both_queues_in_one_call_are_served_in_turn(world: World) -> None:
    world.push("a")
    hide(world, "a")
    world.push("b")
    world.push("c", user="bob")
    assert sorted(world.worker().pop(9, ["default", HIDDEN])) == ["a", "b", "c"]


# What ends the suspicion


def ends_by_finish(worker: SimulatedWorker) -> None:
    worker.finish("a")


def ends_by_fail(worker: SimulatedWorker) -> None:
    worker.fail("a")


def ends_by_retry(worker: SimulatedWorker) -> None:
    worker.retry("a")


def ends_by_hand_back(worker: SimulatedWorker) -> None:
    worker.hand_back("a")


def ends_by_will(worker: SimulatedWorker) -> None:
    worker.world.store.reclaim("w", "crash", wills=[Ended("a", worker.fences["a"], "retry", 0, b"{}")])


ENDS = [ends_by_finish, ends_by_fail, ends_by_retry, ends_by_hand_back, ends_by_will]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("deaths", [1, 2])
def test_an_attempt_that_its_holder_ends_clears_the_suspicion(
    world: World, end: Callable[[SimulatedWorker], None], deaths: int
) -> None:
    world.push("a")
    for _ in range(deaths):
        dies(world, "a")
    worker = world.worker()
    assert worker.pop(1, [hidden_queue("default") if deaths == 2 else "default"]) == ["a"]
    end(worker)
    record = world.record("a")
    assert (record.suspicion, record.is_hidden) == (0, False)
    if record.state is TaskState.SCHEDULED:
        world.store.promote()
        assert world.worker("next").pop() == ["a"]


@pytest.mark.parametrize("why", ["drain", "lost", "death", "crash", "unknown"])
def test_a_hidden_task_stays_hidden_whatever_becomes_of_its_worker(world: World, why: str) -> None:
    world.push("a")
    hide(world, "a")
    worker = world.worker()
    worker.pop(1, [HIDDEN])
    if why == "unknown":
        worker.heartbeat()
    else:
        world.store.reclaim("w", why, max_crashes=3)
    assert world.worker("next").pop(1, [HIDDEN]) == ["a"]


@pytest.mark.parametrize("end", ["poisoned", "cancelled"])
def test_an_operators_retry_starts_afresh(world: World, end: str) -> None:
    world.push("a")
    dies(world, "a", why="lost")
    hide(world, "a")
    dies(world, "a", why="crash", queue=HIDDEN)
    if end == "poisoned":
        dies(world, "a", why="crash", queue=HIDDEN)
        dies(world, "a", why="crash", queue=HIDDEN)
        assert world.record("a").reason is Reason.POISONED
    else:
        world.store.cancel(["a"])
    assert world.store.retry(world.nonce(), ["a"]) == ["queued"]
    assert charges(world.record("a")) == {}
    assert world.worker().pop() == ["a"]


def test_a_replacement_starts_afresh(world: World) -> None:
    world.push("a")
    hide(world, "a")
    assert world.store.push(world.nonce(), "replace", [new_task("a")]) == ["queued"]
    assert charges(world.record("a")) == {}
    assert world.worker().pop() == ["a"]


# Crashes


@pytest.mark.parametrize("max_crashes", [1, 2, 3])
def test_so_many_crashes_are_allowed_less_one(world: World, max_crashes: int) -> None:
    world.push("a", "b")
    for number in range(1, max_crashes + 1):
        worker = world.worker(f"w{number}")
        assert worker.pop() == ["a"]
        assert world.store.reclaim(worker.name, "crash", max_crashes=max_crashes, error=SIGNAL) == (1, 0)
        assert charges(world.record("a")) == {"crashes": number}
    record = world.record("a")
    assert (record.state, record.reason, record.error) == (TaskState.FAILED, Reason.POISONED, SIGNAL)
    assert world.state("b") is TaskState.QUEUED


def test_without_a_limit_crashes_are_only_counted(world: World) -> None:
    world.push("a")
    for _ in range(5):
        worker = world.worker(f"w{world.record('a').crashes}")
        assert worker.pop() == ["a"]
        world.store.reclaim(worker.name, "crash")
    assert (world.state("a"), world.record("a").crashes) == (TaskState.QUEUED, 5)


def test_an_asked_cancel_comes_before_poison(world: World) -> None:
    world.push("a")
    world.worker().pop()
    world.store.cancel(["a"])
    world.store.reclaim("w", "crash", max_crashes=1, error=SIGNAL)
    assert (world.state("a"), world.record("a").error) == (TaskState.CANCELLED, b"")


def test_other_deaths_are_no_crashes(world: World) -> None:
    world.push("a")
    dies(world, "a", why="crash")
    dies(world, "a", why="crash")
    for why in ("lost", "drain", "death"):
        dies(world, "a", why=why)
    assert charges(world.record("a")) == {"crashes": 2, "losses": 1, "suspicion": 1}


# Calls that come twice


@pytest.mark.parametrize("why", ["death", "crash", "lost", "drain"])
def test_a_late_copy_of_a_reclaim_charges_nothing(world: World, why: str) -> None:
    world.push("a")
    dies(world, "a", why=why)
    other = world.worker("other")
    assert other.pop() == ["a"]
    before = world.record("a")
    for each in ("death", "crash", "lost", "drain"):
        will = Ended("a", before.fence, "fail", 2, b"{}")
        assert world.store.reclaim("dead0", each, max_crashes=1, error=SIGNAL, wills=[will]) == (0, 0)
    assert world.record("a") == before
    assert other.finish("a") == ["finished"]
    assert world.store.reclaim("dead0", why, max_crashes=1) == (0, 0)
    assert world.state("a") is TaskState.FINISHED


def test_a_reclaim_in_pieces_charges_each_task_once(world: World) -> None:
    world.push(*INNOCENT)
    for worker in ("w1", "w2"):
        world.worker(worker).pop(7)
        left = 7
        while left:
            taken, left = world.store.reclaim(worker, "death", most=2)
            assert taken <= 2
        assert world.store.reclaim(worker, "death") == (0, 0)
    assert {world.record(task_id).suspicion for task_id in INNOCENT} == {2}


# Damage and the other scripts


def test_a_hidden_task_can_be_cancelled(world: World) -> None:
    world.push("a", "b")
    hide(world, "a", "b")
    assert world.store.cancel(["a"]) == ["cancelled"]
    assert world.snapshot().numbers("depth") == {HIDDEN: 1}
    assert world.store.cancel(["b"]) == ["cancelled"]
    assert world.tick().hidden == []
    assert world.trim(finished=(0, 0)) == (2, 0)


def test_changed_limits_put_parked_hidden_work_back(world: World) -> None:
    world.push("a")
    hide(world, "a")
    world.limit({"alice": limits(paused=True)})
    worker = world.worker()
    assert worker.pop(1, [HIDDEN]) == []
    assert world.tick("w").hidden == []
    world.limit({})
    assert world.tick("w").hidden == ["default"]
    assert worker.pop(1, [HIDDEN]) == ["a"]


def damage_magic(world: World, task_id: str) -> None:
    world.command("SETRANGE", world.key("task", task_id), 0, b"X")


def test_a_hidden_record_that_cannot_be_read_is_passed_over(world: World) -> None:
    world.push("bad", "a")
    hide(world, "bad", "a")
    damage_magic(world, "bad")
    assert world.worker().pop(2, [HIDDEN]) == ["a"]
    record = world.record("bad")
    assert (record.reason, record.queue, record.is_hidden) == (Reason.CORRUPT, "default", False)


@pytest.mark.parametrize("priority", [Priority.NORMAL, Priority.CRITICAL])
def test_a_hidden_record_that_cannot_be_read_can_be_cancelled(world: World, priority: Priority) -> None:
    world.push("bad", priority=priority)
    hide(world, "bad")
    damage_magic(world, "bad")
    assert world.store.cancel(["bad"]) == ["corrupt"]
    assert world.record("bad").reason is Reason.CORRUPT
    assert world.tick().hidden == []


@pytest.mark.parametrize("packed", [b"short", b"\xff" * 44])
def test_a_damaged_account_is_counted_anew_with_hidden_work(world: World, packed: bytes) -> None:
    world.push("a", "urgent", priority=Priority.CRITICAL)
    hide(world, "a", "urgent")
    world.push("b", "c")
    world.client.hset(world.key("account", "default"), "alice", packed)
    worker = world.worker()
    assert worker.pop(1) == ["b"]
    account = world.snapshot().accounts["default", "alice"]
    assert (account.running, account.waiting, account.critical) == (1, 3, 2)
    assert worker.pop(9, [HIDDEN, "default"]) == ["a", "urgent", "c"]
    worker.finish("a", "b", "c", "urgent")


# Tests that can fail

Story = Callable[[World], None]

BROKEN: dict[str, tuple[Mutation, Story]] = {
    "one crash more is allowed": (
        Mutation("lib/release", "t.crashes >= terms.max", "t.crashes > terms.max"),
        partial(test_so_many_crashes_are_allowed_less_one, max_crashes=2),
    ),
    "without a limit one crash is enough": (
        Mutation("lib/release", "terms.max_crashes > 0 and ", ""),
        test_without_a_limit_crashes_are_only_counted,
    ),
    "poison comes before a cancel": (
        Mutation("lib/release", "~= 0 then\n    place.cancel", "~= 0 and not reason then\n    place.cancel"),
        test_an_asked_cancel_comes_before_poison,
    ),
    "retry leaves crashes": (
        Mutation("retry", "t.crashes, t.losses = 0, 0, 0, 0, 0", "t.losses = 0, 0, 0, 0"),
        partial(test_an_operators_retry_starts_afresh, end="poisoned"),
    ),
    "retry leaves it hidden": (
        Mutation("retry", "hidden.set(t, false)", "local _ = hidden"),
        partial(test_an_operators_retry_starts_afresh, end="cancelled"),
    ),
    "what is hidden moves to the end": (
        Mutation("lib/release", "then hidden.set(t, true) end", "then hidden.set(t, true) t.due = clock.now end"),
        test_a_hidden_task_keeps_its_place_among_the_hidden,
    ),
    "one death hides": (
        Mutation("lib/release", "MOST_SUSPICION = 2", "MOST_SUSPICION = 1"),
        test_one_death_delays_nobody,
    ),
    "a drained worker's task is no longer hidden": (
        Mutation("lib/release", "if why == 'drain' then", "if why == 'drain' then\n    hidden.set(t, false)"),
        partial(test_a_hidden_task_stays_hidden_whatever_becomes_of_its_worker, why="drain"),
    ),
    "the stand-in is hidden for ever": (
        Mutation("lib/place", "id, user, hidden.base(queue)", "id, user, queue"),
        test_a_hidden_record_that_cannot_be_read_is_passed_over,
    ),
    "a damaged hidden record is not found": (
        Mutation("lib/place", "local unseen = hidden.of(t.queue)", "local unseen = t.queue"),
        partial(test_a_hidden_record_that_cannot_be_read_can_be_cancelled, priority=Priority.CRITICAL),
    ),
    "a damaged account forgets hidden work": (
        Mutation("lib/account", "{ domain, hidden.of(domain) }", "{ domain }"),
        partial(test_a_damaged_account_is_counted_anew_with_hidden_work, packed=b"short"),
    ),
}


@pytest.mark.parametrize(("mutation", "story"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_script_is_noticed(redis_url: str, namespace: str, mutation: Mutation, story: Story) -> None:
    story(World(redis_url, f"{namespace}-sound"))
    world = World(redis_url, namespace, mutation)
    with pytest.raises((AssertionError, FairquedError)):
        story(world)
