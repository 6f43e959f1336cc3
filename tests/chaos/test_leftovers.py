"""G7: what tasks leave behind in their process holds up nobody."""

import pytest

from fairqued import TaskQueue
from tests.daemon.conftest import StartDaemon
from tests.support.daemon import LATE
from tests.support.process_tasks import add, leave_threads

pytestmark = pytest.mark.process


def test_threads_that_never_end_take_no_slot_and_stop_no_drain(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon(pools=[{"name": "main", "processes": 1, "threads": 1}])
    (worker,) = daemon.worker_pids()
    assert queue.enqueue(leave_threads.task(5)).result(LATE) >= 5
    assert queue.enqueue(add.task(1, 2)).result(LATE) == 3
    assert daemon.worker_pids() == [worker]
    daemon.terminate()
    daemon.assert_clean_exit(5)
