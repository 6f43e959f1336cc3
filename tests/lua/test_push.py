"""Enqueuing is idempotent, whole or not at all, and refuses twins (G3, G4)."""

from __future__ import annotations

import pytest

from fairqued.errors import DuplicateTask, SchemaTooNew
from fairqued.state import Priority, TaskState
from tests.support.world import World, new_task

NONCE, OTHER_NONCE = b"nonce--1", b"nonce--2"


def push(world: World, nonce: bytes, *task_ids: str, if_exists: str = "raise", spec: bytes = b"{}") -> list[str]:
    return world.store.push(nonce, if_exists, [new_task(task_id, spec=spec) for task_id in task_ids])


def test_a_repeated_call_changes_nothing(world: World) -> None:
    assert push(world, NONCE, "a", "b") == ["queued", "queued"]
    before = world.snapshot()
    assert push(world, NONCE, "a", "b") == ["already", "already"]
    assert world.snapshot() == before


def test_another_call_with_the_same_id_is_refused_whole(world: World) -> None:
    push(world, NONCE, "a")
    before = world.snapshot()
    with pytest.raises(DuplicateTask, match="a exists already"):
        push(world, OTHER_NONCE, "new", "a")
    assert world.snapshot() == before


def test_an_id_twice_in_one_call_is_refused(world: World) -> None:
    with pytest.raises(DuplicateTask, match="twice in one call"):
        push(world, NONCE, "a", "b", "a")
    assert world.key_names() == set()


def test_ignoring_leaves_the_old_one_and_takes_the_rest(world: World) -> None:
    push(world, NONCE, "a", spec=b"old")
    assert push(world, OTHER_NONCE, "a", "b", if_exists="ignore", spec=b"new") == ["exists", "queued"]
    assert (world.record("a").spec, world.record("b").spec) == (b"old", b"new")


@pytest.mark.parametrize("due", ["", "+1000000"])
def test_replacing_takes_the_place_of_one_that_waits(world: World, due: str) -> None:
    world.store.push(NONCE, "raise", [new_task("a", spec=b"old", due=due, priority=Priority.CRITICAL)])
    replacement = [new_task("a", user="bob", queue="mail", spec=b"new")]
    assert world.store.push(OTHER_NONCE, "replace", replacement) == ["queued"]
    record = world.record("a")
    assert (record.spec, record.user_id, record.queue, record.state) == (b"new", "bob", "mail", TaskState.QUEUED)
    assert world.worker().pop(9, ["default", "mail"]) == ["a"]


def test_replacing_one_that_runs_or_has_ended_is_refused(world: World) -> None:
    push(world, NONCE, "a", "b")
    worker = world.worker()
    worker.pop(2)
    worker.finish("b")
    for task_id in ("a", "b"):
        with pytest.raises(DuplicateTask):
            push(world, OTHER_NONCE, task_id, if_exists="replace")


def test_a_replacement_goes_on_with_the_fence(world: World) -> None:
    push(world, NONCE, "a")
    worker = world.worker()
    worker.pop()
    worker.retry("a", delay_us=1_000_000)
    push(world, OTHER_NONCE, "a", if_exists="replace")
    assert worker.finish("a") == ["already"]
    assert worker.pop() == ["a"]
    assert world.record("a").fence == 2


def test_a_late_copy_of_a_replaced_enqueue_does_not_replace_again(world: World) -> None:
    push(world, NONCE, "a", spec=b"first")
    push(world, OTHER_NONCE, "a", if_exists="replace", spec=b"second")
    assert push(world, NONCE, "a", if_exists="replace", spec=b"first") == ["already"]
    assert world.record("a").spec == b"second"


def test_a_late_copy_of_the_enqueue_after_a_retry_is_known(world: World) -> None:
    push(world, NONCE, "a")
    world.store.cancel(["a"])
    world.store.retry(OTHER_NONCE, ["a"])
    assert push(world, NONCE, "a", if_exists="replace") == ["already"]


def test_a_late_copy_of_an_older_retry_does_not_revive(world: World) -> None:
    push(world, NONCE, "a")
    for nonce in (b"retry--1", b"retry--2"):
        world.store.cancel(["a"])
        assert world.store.retry(nonce, ["a"]) == ["queued"]
    world.store.cancel(["a"])
    assert world.store.retry(b"retry--1", ["a"]) == ["already"]
    assert world.state("a") is TaskState.CANCELLED


def test_a_namespace_of_a_newer_schema_is_refused(damaged_world: World) -> None:
    damaged_world.client.hset(damaged_world.key("meta"), "schema", 2)
    with pytest.raises(SchemaTooNew):
        push(damaged_world, NONCE, "a")
    with pytest.raises(SchemaTooNew):
        damaged_world.worker()
    assert damaged_world.key_names() == {"meta"}


def test_tasks_of_many_users_and_queues_travel_in_one_call(world: World) -> None:
    tasks = [
        new_task(f"{user}{queue}{priority}", user=user, queue=queue, priority=priority, due=due)
        for user in ("alice", "bob")
        for queue in ("default", "mail")
        for priority, due in ((Priority.NORMAL, ""), (Priority.CRITICAL, ""), (Priority.LOW, "+5000000"))
    ]
    statuses = world.store.push(NONCE, "raise", tasks)
    assert statuses == ["queued", "queued", "scheduled"] * 4
    assert world.snapshot().numbers("depth") == {"default": 4, "mail": 4}


def test_five_hundred_tasks_are_accepted_in_one_call(world: World) -> None:
    assert push(world, NONCE, *map(str, range(500))) == ["queued"] * 500
    assert world.worker().pop(500) == [str(number) for number in range(500)]
