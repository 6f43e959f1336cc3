"""Copies of calls that arrive after a later call undid what they did."""

from __future__ import annotations

import pytest

from fairqued import DuplicateTask, TaskState
from tests.support.world import World, limits, new_task


def test_a_late_cancel_spares_what_was_let_run_again(world: World) -> None:
    world.push("a")
    nonce = world.nonce()
    assert world.store.cancel(["a"], nonce) == ["cancelled"]
    assert world.store.retry(world.nonce(), ["a"]) == ["queued"]
    assert world.store.cancel(["a"], nonce) == ["cancelled"]
    assert world.state("a") is TaskState.QUEUED
    assert world.store.cancel(["a"], world.nonce()) == ["cancelled"]
    assert world.state("a") is TaskState.CANCELLED


def test_a_late_cancel_spares_the_next_attempt_of_a_revived_task(world: World) -> None:
    worker = world.worker()
    world.push("a")
    worker.pop()
    nonce = world.nonce()
    assert world.store.cancel(["a"], nonce) == world.store.cancel(["a"], nonce) == ["asked"]
    assert worker.finish("a") == ["cancelled"]
    world.store.retry(world.nonce(), ["a"])
    worker.pop()
    world.store.cancel(["a"], nonce)
    assert worker.finish("a") == ["finished"]


def test_a_replacement_that_was_refused_stays_refused(world: World) -> None:
    """Its first request hangs in a socket, the second is refused, and then the first one arrives."""
    worker = world.worker()
    world.push("a", spec=b'{"func":"old"}')
    worker.pop()
    late = (world.nonce(), "replace", [new_task("a", spec=b'{"func":"new"}'), new_task("b")])
    with pytest.raises(DuplicateTask):
        world.store.push(*late)
    world.store.reclaim(worker.name, "drain")
    for _ in range(2):
        with pytest.raises(DuplicateTask):
            world.store.push(*late)
    assert world.store.read("b") is None
    assert world.record("a").read_spec() == {"func": "old"}
    world.store.push(world.nonce(), "replace", [new_task("a", spec=b'{"func":"new"}')])
    assert world.record("a").read_spec() == {"func": "new"}


def test_a_late_copy_of_an_older_configuration_changes_nothing(world: World) -> None:
    old = ("old", "", 0, "alice", limits(max_running=1))
    assert world.store._run("configure", *old) == b"old"
    assert world.store.configure("new", {}, {"alice": limits(max_running=2)})
    assert world.store._run("configure", *old) == b"new"
    worker = world.worker()
    world.push("a", "b", "c")
    assert len(worker.pop(3)) == 2
