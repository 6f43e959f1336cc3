"""Redis goes away and comes back: nobody exits, running tasks go on, and their ends are delivered late."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from fairqued import TaskQueue
from fairqued.doctor.fsck import fsck
from tests.daemon.conftest import StartDaemon
from tests.support.daemon import LATE
from tests.support.process_tasks import add, hold
from tests.support.servers import RedisServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.process


@contextmanager
def killed(server: RedisServer) -> Iterator[None]:
    server.kill()
    yield
    server.start()


@contextmanager
def frozen(server: RedisServer) -> Iterator[None]:
    server.freeze()
    yield
    server.cont()


@pytest.mark.parametrize("outage", [killed, frozen])
def test_an_outage(
    start_daemon: StartDaemon,
    start_server: Callable[..., RedisServer],
    namespace: str,
    outage: Callable[[RedisServer], AbstractContextManager[None]],
) -> None:
    server = start_server(persist=True, options=["--appendfsync", "always"])
    daemon = start_daemon(redis_url=server.url, pools=[{"name": "main", "processes": 2, "threads": 2}])
    queue = TaskQueue(server.url, namespace=namespace, user_id="alice", timeout_seconds=20)
    handles = queue.enqueue_many(hold.task("gate") for _ in range(3))
    daemon.wait_for_starts(3)
    workers = daemon.worker_pids()
    with outage(server):
        daemon.open_gate("gate")
        wait_until(lambda: len(daemon.ledger.read()) == 3, LATE, "the tasks end")
        time.sleep(3)  # longer than a try takes
    for handle in handles:
        assert handle.result(LATE) in workers
        assert queue.get(handle.task_id).attempts == 1
    began = time.monotonic()
    assert queue.enqueue(add.task(1, 2)).result(LATE) == 3
    assert time.monotonic() - began < 5
    assert daemon.worker_pids() == workers
    assert queue.stats().counters["finished"] == 4
    wait_until(lambda: daemon.status()["redis"]["reachable"], LATE, "the master sees it too")
    by_process = [line["pid"] for line in daemon.logs() if "Redis at" in line["message"]]
    assert len(by_process) == len(set(by_process)), "each process says so once"
    assert os.getpid() not in by_process
    assert fsck(queue._store.connection.client, namespace) == []
    queue.close()


def test_workers_that_die_meanwhile_are_back_soon_after(
    start_daemon: StartDaemon, start_server: Callable[..., RedisServer], namespace: str
) -> None:
    server = start_server(persist=True, options=["--appendfsync", "always"])
    pools = [{"name": "main", "processes": 2, "threads": 2}]
    daemon = start_daemon(redis_url=server.url, pools=pools, redis={"timeout_seconds": 1})
    queue = TaskQueue(server.url, namespace=namespace, user_id="alice", timeout_seconds=20)
    handle = queue.enqueue(hold.task("gate"))
    daemon.wait_for_starts(1)
    with killed(server):
        wait_until(lambda: not daemon.status()["redis"]["reachable"], LATE, "the master sees it")
        for pid in daemon.worker_pids():
            os.kill(pid, signal.SIGKILL)
        daemon.wait_for_message("was sent SIGKILL", 2)
        time.sleep(2)  # many tries to boot, if there were any
    daemon.open_gate("gate")
    handle.result(LATE)
    assert queue.get(handle.task_id).attempts == 2
    daemon.wait_until_ready()
    assert not daemon.messages("cannot boot"), "without Redis there is no point in trying"
    queue.close()
