"""Redis goes away and comes back: nobody exits, running tasks go on, and their ends are delivered late."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from fairqued import TaskQueue
from tests.daemon.conftest import StartDaemon
from tests.support.daemon import LATE
from tests.support.process_tasks import hold
from tests.support.servers import RedisServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.process


@contextmanager
def killed(server: RedisServer) -> Iterator[None]:
    server.kill()
    yield
    server.start()


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
