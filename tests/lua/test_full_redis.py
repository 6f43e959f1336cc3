"""When Redis is full, nothing new comes in and everything that is there can drain (G2, G9 of the design)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from fairqued.connection import Connection
from fairqued.errors import QueueUnavailable
from fairqued.state import TaskState
from tests.support.servers import RedisServer, ServerBinary
from tests.support.world import FOREVER_US, World, new_task


class FullableWorld(World):
    """A world whose server can be filled."""

    def fill(self) -> None:
        """From now on the server uses more memory than it may."""
        self.command("CONFIG", "SET", "maxmemory", 1)

    def let_pass(self, seconds: float) -> None:
        """Set the simulated clock, which a full server would refuse."""
        self.command("CONFIG", "SET", "maxmemory", 0)
        self.clock.advance(seconds)
        self.fill()


@pytest.fixture
def full(
    start_server: Callable[..., RedisServer], server_binary: ServerBinary, namespace: str
) -> Iterator[FullableWorld]:
    """A world with ten tasks on a server of its own, which is not yet full."""
    server = start_server(server_binary, options=("--maxmemory", "100mb"))
    world = FullableWorld(server.url, namespace)
    world.connection = world.store.connection = Connection(server.url, timeout_seconds=0.3)
    world.push(*(f"t{number}" for number in range(10)))
    yield world
    world.command("CONFIG", "SET", "maxmemory", 0)
    assert world.fsck() == []
    world.close()


def test_enqueue_is_refused_whole(full: FullableWorld) -> None:
    full.fill()
    before = full.key_names()
    with pytest.raises(QueueUnavailable, match="maxmemory"):
        full.push("new1", "new2")
    assert full.key_names() == before
    assert full.snapshot().numbers("counters")["enqueued"] == 10


def test_enqueue_that_replaces_is_refused_whole(full: FullableWorld) -> None:
    full.fill()
    with pytest.raises(QueueUnavailable):
        full.store.push(full.nonce(), "replace", [new_task("t0", spec=b"{}")])
    assert full.record("t0").spec != b"{}"


def test_a_new_worker_can_register_and_drain_the_queue(full: FullableWorld) -> None:
    full.fill()
    worker = full.worker()
    assert len(worker.pop(6)) == 6
    assert worker.finish("t0") == ["finished"]
    assert worker.finish("t1", result=b'{"a":1}') == ["finished"]
    assert full.client.get(full.key("result", "t1")) == b'{"a":1}'
    assert worker.retry("t2", delay_us=1000) == ["scheduled"]
    assert worker.fail("t3", error=b'{"message":"no"}') == ["failed"]
    assert worker.heartbeat("t4", "t5") == []
    assert full.store.reclaim("w", "death") == (2, 0)
    assert {full.state(task_id) for task_id in ("t4", "t5")} == {TaskState.QUEUED}


def test_scripts_that_the_server_does_not_know_can_be_loaded(full: FullableWorld) -> None:
    full.fill()
    full.command("SCRIPT FLUSH")
    worker = full.worker()
    assert len(worker.pop(6)) == 6
    full.command("SCRIPT FLUSH")
    assert worker.finish("t0") == ["finished"]


def test_tasks_can_be_cancelled_and_retried(full: FullableWorld) -> None:
    full.fill()
    assert full.store.cancel(["t0", "t1"]) == ["cancelled", "cancelled"]
    assert full.store.retry(full.nonce(), ["t0"]) == ["queued"]


def test_masters_go_on(full: FullableWorld) -> None:
    full.push("later", due="+1000")
    worker = full.worker()
    worker.pop(3)
    worker.finish("t0")
    full.let_pass(3)
    assert full.store.promote() == (1, None)
    assert full.tick("w") == (True, 0, [], [])
    full.let_pass(4)
    full.tick()
    assert full.trim(finished=(1, FOREVER_US)) == (1, 0)


def test_a_lost_worker_is_reclaimed(full: FullableWorld) -> None:
    full.worker(lease_us=1_000_000).pop(2)
    full.let_pass(2)
    assert full.tick() == (True, 2, ["w"], [])


def test_settings_can_be_applied(full: FullableWorld) -> None:
    full.fill()
    full.limit({"alice": b'{"max_running":{"value":1,"origin":"yaml"}}'})
    assert len(full.worker().pop(3)) == 1
