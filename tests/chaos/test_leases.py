"""G5: what looks like a death and is none: Redis away for longer than a lease, clocks that are wrong."""

import sys
import time
from collections.abc import Callable

import pytest

from fairqued import TaskQueue
from tests.daemon.conftest import StartDaemon
from tests.support.daemon import CHECKOUT, LATE
from tests.support.process_tasks import fail_once, hold, say_when
from tests.support.proxy import Faults, FaultyProxy
from tests.support.servers import RedisServer
from tests.support.skewed_daemon import AHEAD_SECONDS
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

LEASE = {"lease_seconds": 4, "heartbeat_seconds": 1}


def wait_for_ticks(queue: TaskQueue, number: int) -> None:
    """Wait until a master has ticked so many times more."""
    client, meta = queue._store.connection.client, queue._store.keys.meta
    for _ in range(number):
        before = client.hget(meta, "ticked")
        wait_until(lambda: client.hget(meta, "ticked") != before, LATE, "a tick")  # noqa: B023


def test_no_living_task_is_reclaimed_after_an_outage_longer_than_the_lease(
    start_daemon: StartDaemon, start_server: Callable[..., RedisServer], namespace: str
) -> None:
    server = start_server(persist=True, options=["--appendfsync", "always"])
    with FaultyProxy(server.url) as network:
        first, second = (start_daemon(redis_url=url, worker=LEASE) for url in (server.url, network.url))
        queue = TaskQueue(server.url, namespace=namespace, user_id="alice", timeout_seconds=LATE)
        handles = queue.enqueue_many(hold.task("gate") for _ in range(4))
        for daemon in (first, second):
            daemon.wait_for_starts(2)
        server.kill()
        network.inject(Faults(refuse=True))
        time.sleep(LEASE["lease_seconds"] + 1)
        server.start()
        first.wait_for_message("no tick for a while: all leases are renewed, none is judged")
        wait_for_ticks(queue, 2)  # which judge, and the second host is not back yet
        network.heal()
        for daemon in (first, second):
            daemon.open_gate("gate")
        for handle in handles:
            handle.result(LATE)
            assert queue.get(handle.task_id).attempts == 1
        assert not first.messages("lease over")
        queue.close()


def test_a_host_whose_clock_is_an_hour_ahead_works_like_any_other(
    start_daemon: StartDaemon, make_daemon: StartDaemon, queue: TaskQueue
) -> None:
    right = start_daemon(worker=LEASE)
    handles = queue.enqueue_many(hold.task("gate") for _ in range(2))
    right.wait_for_starts(2)
    pool = {"name": "main", "queues": ["default", "late"], "processes": 1, "threads": 3}
    skewed = make_daemon(worker=LEASE, pools=[pool])
    skewed.program = [sys.executable, "-m", "tests.support.skewed_daemon"]
    skewed.start(env={"PYTHONPATH": str(CHECKOUT)})
    handles += queue.enqueue_many(hold.task("gate") for _ in range(2))
    skewed.wait_for_starts(2)
    began = time.time()
    due = queue.enqueue(say_when.task(), queue="late", delay_seconds=1.0)
    assert 0.9 < due.result(LATE) - AHEAD_SECONDS - began < LATE
    for daemon in (right, skewed):
        daemon.open_gate("gate")
    for handle in handles:
        handle.result(LATE)
        assert queue.get(handle.task_id).attempts == 1, "neither judges the other by its own clock"
    assert queue.enqueue(fail_once.task(), queue="late").result(LATE) == 2
