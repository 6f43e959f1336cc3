"""G5 in seconds: how long it takes until the tasks of the dead are back, and until they run again."""

import os
import signal
import statistics
import sys
import time
from collections.abc import Callable

import pytest

from fairqued import TaskHandle, TaskQueue
from tests.daemon.conftest import StartDaemon
from tests.support.daemon import CHECKOUT, LATE, Daemon
from tests.support.process_tasks import hold

pytestmark = pytest.mark.process

ROUNDS, MOST_SECONDS = 50, 1.0
DAEMON_TASKS, DAEMON_SECONDS = 8, 2.0

Say = Callable[[str], None]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Print a line that every log shows."""

    def print_line(line: str) -> None:
        with capsys.disabled():
            print(f"\n{line}", end="")  # noqa: T201

    return print_line


def seconds_until_back(daemon: Daemon, queue: TaskQueue, handles: list[TaskHandle[int]]) -> float:
    """Kill the worker that runs these tasks; the time until all of them are taken from it."""
    (pid,) = daemon.worker_pids()
    began = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    while not all(_was_taken_back(queue, handle) for handle in handles):
        assert time.perf_counter() - began < LATE
    return time.perf_counter() - began


def _was_taken_back(queue: TaskQueue, handle: TaskHandle[int]) -> bool:
    record = queue._store.read(handle.task_id)
    return record is not None and record.fence > 1


def test_tasks_of_a_killed_worker_are_back_within_a_second(
    make_daemon: StartDaemon, queue: TaskQueue, say: Say
) -> None:
    daemon = make_daemon()
    daemon.program = [sys.executable, "-m", "tests.support.undaunted_daemon"]
    daemon.start(env={"PYTHONPATH": str(CHECKOUT)}).wait_until_ready()
    took = []
    for number in range(ROUNDS):
        handles = queue.enqueue_many(hold.task(f"gate-{number}") for _ in range(2))
        daemon.wait_for_starts(4 * number + 2)
        took.append(seconds_until_back(daemon, queue, handles))
        daemon.open_gate(f"gate-{number}")
        for handle in handles:
            handle.result(LATE)
        daemon.wait_for_starts(4 * number + 4)
        daemon.wait_until_ready()
    milliseconds = [1000 * seconds for seconds in (statistics.median(took), max(took))]
    say(f"{ROUNDS} workers killed: tasks back after {milliseconds[0]:.1f} ms (median), {milliseconds[1]:.1f} ms (most)")
    assert max(took) <= MOST_SECONDS
    assert queue.stats().counters["finished"] == 2 * ROUNDS


def test_tasks_of_a_killed_daemon_run_again_within_two_seconds_of_its_start(
    start_daemon: StartDaemon, queue: TaskQueue, say: Say
) -> None:
    daemon = start_daemon(pools=[{"name": "main", "processes": 2, "threads": DAEMON_TASKS // 2}])
    handles = queue.enqueue_many(hold.task("gate") for _ in range(DAEMON_TASKS))
    daemon.wait_for_starts(DAEMON_TASKS)
    daemon.kill_all()
    began = time.time()
    daemon.start()
    starts = daemon.wait_for_starts(2 * DAEMON_TASKS)[DAEMON_TASKS:]
    assert {start.task_id for start in starts} == {handle.task_id for handle in handles}
    took = [start.at - began for start in starts]
    say(f"daemon killed: {DAEMON_TASKS} tasks run again {min(took):.2f} to {max(took):.2f} s after its next start")
    assert max(took) <= DAEMON_SECONDS
    daemon.open_gate("gate")
    for handle in handles:
        handle.result(LATE)
    assert queue.stats().counters["finished"] == DAEMON_TASKS
