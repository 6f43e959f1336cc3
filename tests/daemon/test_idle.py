"""G12: an idle worker hardly asks, and still starts a new task at once."""

import time
from collections import Counter
from collections.abc import Callable
from statistics import median

import pytest

from fairqued import TaskQueue
from tests.daemon.conftest import StartDaemon
from tests.support.daemon import LATE
from tests.support.monitor import monitor, ports_of
from tests.support.process_tasks import say_when
from tests.support.servers import RedisServer

pytestmark = pytest.mark.process

WATCHED_SECONDS = 10


def test_an_idle_worker_makes_at_most_one_request_a_second(
    start_daemon: StartDaemon, start_server: Callable[..., RedisServer]
) -> None:
    server = start_server(tcp=True)
    daemon = start_daemon(redis_url=server.tcp_url, pools=[{"name": "main", "processes": 2, "threads": 4}])
    with monitor(server) as requests:
        time.sleep(WATCHED_SECONDS)
    for worker in daemon.worker_pids():
        ports = ports_of(worker, server)
        asked = Counter(command for port, command in requests if port in ports)
        assert 0 < asked.total() <= WATCHED_SECONDS, asked
        assert len(ports) <= 3


def test_an_idle_worker_starts_a_task_within_milliseconds(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    start_daemon(pools=[{"name": "main", "processes": 2, "threads": 4}])
    waits = []
    for _ in range(30):
        enqueued = time.time()
        waits.append(queue.enqueue(say_when.task()).result(LATE) - enqueued)
    assert median(waits) < 0.05, sorted(waits)


def test_a_delayed_task_starts_when_it_is_due(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    start_daemon()
    enqueued = time.time()
    delays = [0.2, 0.7, 1.2]
    handles = [queue.enqueue(say_when.task(), delay_seconds=delay) for delay in delays]
    waits = [handle.result(LATE) - enqueued for handle in handles]
    for delay, wait in zip(delays, waits, strict=True):
        assert delay <= wait < delay + 1, waits
