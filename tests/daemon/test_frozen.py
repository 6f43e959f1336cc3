"""G5 and G6: daemons that are dead, stand still or are cut off past their lease, and what comes late."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from fairqued import TaskQueue
from tests.daemon.conftest import StartDaemon
from tests.support.daemon import LATE, wait_until_gone
from tests.support.process_tasks import add, hold
from tests.support.proxy import Faults, FaultyProxy
from tests.support.servers import RedisServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

LEASE = {"lease_seconds": 4, "heartbeat_seconds": 1}
ELSEWHERE_WITHIN = LEASE["lease_seconds"] + 5
HELD_UP_SECONDS = LEASE["lease_seconds"] + 3


@pytest.fixture
def network(redis_server: RedisServer) -> Iterator[FaultyProxy]:
    """The way to Redis of one of several daemons."""
    with FaultyProxy(redis_server.url) as proxy:
        yield proxy


def test_tasks_of_hosts_that_are_frozen_dead_or_held_up_go_elsewhere_and_what_comes_late_is_refused(
    start_daemon: StartDaemon, queue: TaskQueue, network: FaultyProxy
) -> None:
    frozen, dead = (start_daemon(worker=LEASE) for _ in range(2))
    held_up = start_daemon(worker=LEASE, redis_url=network.url)
    handles = queue.enqueue_many(hold.task("gate") for _ in range(6))
    for daemon in (frozen, dead, held_up):
        daemon.wait_for_starts(2)
    zombies = frozen.worker_pids() + held_up.worker_pids()
    other = start_daemon(worker=LEASE, pools=[{"name": "main", "processes": 1, "threads": 6}])
    frozen.freeze()
    dead.kill_all()
    network.inject(Faults(delay_seconds=HELD_UP_SECONDS))
    held_up.open_gate("gate")
    wait_until(lambda: len(held_up.ledger.read()) == 2, LATE, "two tasks end, and their ends are on the way")
    arrive_at = time.monotonic() + HELD_UP_SECONDS
    other.open_gate("gate")
    wait_until(lambda: len(other.starts()) == 6, ELSEWHERE_WITHIN, "the other daemon runs all tasks")
    results = [handle.result(LATE) for handle in handles]
    assert set(results) <= set(other.worker_pids())
    frozen.open_gate("gate")
    frozen.cont()
    network.heal()
    for daemon in (frozen, held_up):
        daemon.wait_for_message("ended because it had lost its lease; the next one starts now")
        daemon.wait_until_ready()
    assert not {*frozen.worker_pids(), *held_up.worker_pids()} & set(zombies)
    wait_until(lambda: time.monotonic() > arrive_at + 0.5, LATE, "what was held up has arrived")
    assert [handle.result(LATE) for handle in handles] == results, "what the zombies made of it is refused"
    for handle in handles:
        record = queue._store.read(handle.task_id)
        assert record is not None
        assert (record.attempts, record.losses) == (2, 1)
    assert queue.stats().counters["finished"] == 6
    other.terminate()
    other.assert_clean_exit(5)
    assert queue.enqueue(add.task(1, 2)).result(LATE) == 3, "the others work again"


def test_one_worker_that_stands_still_is_killed_and_nothing_runs_twice_at_once(
    start_daemon: StartDaemon, queue: TaskQueue
) -> None:
    daemon = start_daemon(worker=LEASE, pools=[{"name": "main", "processes": 2, "threads": 1}])
    handles = queue.enqueue_many(hold.task("gate") for _ in range(2))
    victim, other = (start.pid for start in daemon.wait_for_starts(2))
    os.kill(victim, signal.SIGSTOP)
    daemon.wait_for_message("was stopped for")
    wait_until_gone([victim], LATE)
    daemon.wait_for_starts(3)
    daemon.open_gate("gate")
    assert victim not in {handle.result(LATE) for handle in handles}
    assert other in {handle.result(LATE) for handle in handles}, "its neighbour is left alone"
    assert sorted(queue.get(handle.task_id).attempts for handle in handles) == [1, 2]
