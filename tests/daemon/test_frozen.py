"""G5 and G6: a whole daemon that stands still past its lease, and what it does when it goes on."""

import pytest

from fairqued import TaskQueue
from tests.daemon.conftest import StartDaemon
from tests.support.daemon import LATE
from tests.support.process_tasks import add, hold
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

LEASE = {"lease_seconds": 4, "heartbeat_seconds": 1}


def test_tasks_of_a_frozen_daemon_go_elsewhere_and_its_zombies_are_refused(
    start_daemon: StartDaemon, queue: TaskQueue
) -> None:
    frozen = start_daemon(worker=LEASE)
    handles = queue.enqueue_many(hold.task("gate") for _ in range(2))
    frozen.wait_for_starts(2)
    zombies = frozen.worker_pids()
    other = start_daemon(worker=LEASE)
    frozen.freeze()
    other.open_gate("gate")
    wait_until(lambda: len(other.starts()) == 2, LEASE["lease_seconds"] + 5, "the other daemon runs its tasks")
    results = [handle.result(LATE) for handle in handles]
    assert set(results) <= set(other.worker_pids())
    frozen.open_gate("gate")
    frozen.cont()
    frozen.wait_for_message("ended because it had lost its lease; the next one starts now")
    frozen.wait_until_ready()
    assert not set(frozen.worker_pids()) & set(zombies)
    assert [handle.result(LATE) for handle in handles] == results, "what the zombies made of it is refused"
    for handle in handles:
        record = queue._store.read(handle.task_id)
        assert record is not None
        assert (record.attempts, record.losses) == (2, 1)
    assert queue.stats().counters["finished"] == 2
    other.terminate()
    other.assert_clean_exit(5)
    assert queue.enqueue(add.task(1, 2)).result(LATE) == 3, "the thawed daemon works again"
