"""G5: what happens to tasks whose worker dies, and to nobody else."""

import os
import signal
from typing import Any

import pytest

from fairqued import Task, TaskQueue
from fairqued.record import Record
from tests.daemon.conftest import StartDaemon
from tests.support.daemon import LATE, Daemon, wait_until_gone
from tests.support.process_tasks import add, break_slots, crash, hold, hold_gil, vanish
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

TWO_WORKERS = [{"name": "main", "processes": 2, "threads": 2}]


def read(queue: TaskQueue, task_id: str) -> Record:
    record = queue._store.read(task_id)
    assert record is not None
    return record


def hold_slots(daemon: Daemon, queue: TaskQueue, count: int) -> dict[int, list[str]]:
    """Let tasks run into a gate: their ids by the process that runs them."""
    queue.enqueue_many(hold.task("gate") for _ in range(count))
    held: dict[int, list[str]] = {}
    for start in daemon.wait_for_starts(count):
        held.setdefault(start.pid, []).append(start.task_id)
    return held


def test_a_killed_worker_loses_nothing_and_disturbs_nobody(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon(pools=TWO_WORKERS)
    held = hold_slots(daemon, queue, 4)
    victim, other = daemon.worker_pids()
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: all(read(queue, task_id).fence > 1 for task_id in held[victim]), 1, "its tasks are put back")
    wait_until(lambda: len(daemon.starts()) == 6, LATE, "they run again")
    assert other in daemon.worker_pids()
    assert victim not in daemon.worker_pids()
    daemon.open_gate("gate")
    for task_id in held[victim] + held[other]:
        queue.handle(task_id).result(LATE)
    assert [queue.get(task_id).attempts for task_id in held[victim] + held[other]] == [2, 2, 1, 1]
    assert all(len(executions) == 1 for executions in daemon.ledger.by_task().values())
    assert queue.stats().counters["finished"] == 4
    assert daemon.messages("main/1 was sent SIGKILL, perhaps out of memory; the next one starts now")


def test_all_workers_killed_at_once(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon(pools=TWO_WORKERS)
    held = hold_slots(daemon, queue, 4)
    victims = daemon.kill_workers()
    tasks = [task_id for ids in held.values() for task_id in ids]
    wait_until(lambda: all(read(queue, task_id).fence > 1 for task_id in tasks), 1, "their tasks are put back")
    daemon.open_gate("gate")
    for task_id in tasks:
        queue.handle(task_id).result(LATE)
    wait_until_gone(victims, LATE)
    daemon.wait_until_ready()
    assert len(daemon.worker_pids()) == 2
    assert queue.stats().counters["finished"] == 4


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (vanish.task(0), "ended with exit code 0"),
        (vanish.task(1), "ended with exit code 1"),
        (crash.task(), "was sent SIGSEGV"),
    ],
    ids=["exit-0", "exit-1", "segfault"],
)
def test_a_task_that_took_its_process_along_once_runs_again(
    start_daemon: StartDaemon, queue: TaskQueue, work: Task[Any], said: str
) -> None:
    daemon = start_daemon()
    first = daemon.worker_pids()
    handle = queue.enqueue(work)
    handle.result(LATE)
    record = read(queue, handle.task_id)
    assert (record.attempts, record.suspicion) == (2, 0), "it ended, and is no longer suspect"
    assert daemon.messages(said)
    assert daemon.worker_pids() != first


def test_a_slot_that_breaks_ends_its_process(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon()
    first = daemon.worker_pids()
    queue.enqueue(break_slots.task()).result(LATE)
    handle = queue.enqueue(add.task(1, 2))
    assert handle.result(LATE) == 3
    record = read(queue, handle.task_id)
    assert (record.attempts, record.suspicion) == (2, 0), "it ended, and is no longer suspect"
    assert daemon.messages("a slot died; this process ends")
    assert daemon.messages("ended because a slot died")
    assert daemon.worker_pids() != first


def test_a_worker_too_busy_to_beat_keeps_its_tasks(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon(worker={"lease_seconds": 4, "heartbeat_seconds": 1})
    handle = queue.enqueue(hold_gil.task(5.5))
    handle.result(LATE)
    assert (queue.get(handle.task_id).attempts, len(daemon.starts())) == (1, 1)
    assert not daemon.messages("lease")


def test_a_worker_that_is_told_to_stop_by_an_operator_is_replaced(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon()
    held = hold_slots(daemon, queue, 2)
    (first,) = held
    os.kill(first, signal.SIGTERM)
    daemon.open_gate("gate")
    for task_id in held[first]:
        assert queue.handle(task_id).result(LATE) == first
    wait_until_gone([first], LATE)
    daemon.wait_until_ready()
    assert queue.stats().counters["finished"] == 2


def test_workers_leave_other_signals_to_the_master(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon()
    workers = daemon.worker_pids()
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN):
        os.kill(workers[0], number)
    assert queue.enqueue(add.task(1, 2)).result(LATE) == 3
    assert daemon.worker_pids() == workers
