"""G5: a task that keeps killing its process is FAILED, and those that only shared the process have nothing to fear."""

import os
import signal
from typing import Any

import orjson
import pytest

from fairqued import Reason, TaskFailed, TaskHandle, TaskQueue, TaskState
from fairqued.record import Record
from tests.daemon.conftest import StartDaemon
from tests.support.daemon import LATE, title
from tests.support.process_tasks import add, hold, noop, poison, take_more_memory_than_allowed
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

CAUSES: dict[str, dict[str, Any]] = {
    "segfault": {"signal": "SIGSEGV"},
    "exit": {"exit_code": 3},
    "kill": {"signal": "SIGKILL"},
}
MAX_CRASHES, SUSPICIOUS_DEATHS = 2, 2


def read(queue: TaskQueue, handle: TaskHandle[Any]) -> Record:
    record = queue._store.read(handle.task_id)
    assert record is not None
    return record


def assert_poisoned(queue: TaskQueue, handle: TaskHandle[Any], cause: dict[str, Any], attempts: int) -> None:
    with pytest.raises(TaskFailed) as caught:
        handle.result(LATE)
    assert (caught.value.reason, caught.value.error_type) == (Reason.POISONED, "ProcessDied")
    record = read(queue, handle)
    assert (record.attempts, record.crashes) == (attempts, MAX_CRASHES)
    assert orjson.loads(record.error).items() >= cause.items()
    assert str(next(iter(cause.values()))) in caught.value.message


def _is_found(record: Record) -> bool:
    return record.is_hidden or record.state.is_final


def test_poison_among_others(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon(
        pools=[{"name": "main", "processes": 1, "threads": 8}], worker={"max_crashes": MAX_CRASHES, "drain_seconds": 10}
    )
    neighbours = queue.enqueue_many(hold.task("gate") for _ in range(5))
    daemon.wait_for_starts(5)
    poisoned = {how: queue.enqueue(poison.task(how)) for how in CAUSES}
    waiting = queue.enqueue_many(noop.task() for _ in range(20))
    wait_until(lambda: all(_is_found(read(queue, each)) for each in poisoned.values()), LATE, "they are suspected")
    for handle in waiting:
        handle.result(LATE)
    daemon.open_gate("gate")
    for how, handle in poisoned.items():
        wait_until(lambda: handle.state().is_final, LATE, f"{how} is found out")  # noqa: B023
        assert_poisoned(queue, handle, CAUSES[how], SUSPICIOUS_DEATHS + MAX_CRASHES)
    for neighbour in neighbours:
        neighbour.result(LATE)
        record = read(queue, neighbour)
        assert (record.state, record.suspicion, record.crashes, record.losses) == (TaskState.FINISHED, 0, 0, 0)
        assert record.failures == 0
        assert daemon.messages(f"task {neighbour.task_id} of alice was in {SUSPICIOUS_DEATHS} processes when they died")
    for handle in poisoned.values():
        daemon.wait_for_message(f"task {handle.task_id} of alice is FAILED as poisoned after {MAX_CRASHES} crashes")
    wait_until(lambda: len(daemon.worker_pids()) == 1, LATE, "the worker of the hidden queue ends with it")
    assert all("!" not in title(pid) for pid in daemon.worker_pids())
    assert queue.enqueue(add.task(1, 2)).result(LATE) == 3


def test_in_a_pool_with_one_thread_each_death_is_a_crash(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon(
        pools=[{"name": "main", "processes": 1, "threads": 1}], worker={"max_crashes": MAX_CRASHES, "drain_seconds": 10}
    )
    handle = queue.enqueue(poison.task("exit"))
    assert_poisoned(queue, handle, CAUSES["exit"], MAX_CRASHES)
    assert not any("!" in title(pid) for pid in daemon.worker_pids())
    assert queue.enqueue(add.task(1, 2)).result(LATE) == 3


def test_an_ordinary_kill_delays_nobody_and_is_forgotten(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon(pools=[{"name": "main", "processes": 1, "threads": 4}])
    held = queue.enqueue_many(hold.task("gate") for _ in range(4))
    daemon.wait_for_starts(4)
    os.kill(daemon.worker_pids()[0], signal.SIGKILL)
    daemon.wait_for_starts(8)
    assert daemon.messages("the next one starts now")
    assert {read(queue, handle).suspicion for handle in held} == {1}
    daemon.open_gate("gate")
    for handle in held:
        handle.result(LATE)
    assert {read(queue, handle).suspicion for handle in held} == {0}, "who finishes is above suspicion"


def test_memory_beyond_a_limit_fails_the_task_alone(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon()
    workers = daemon.worker_pids()
    with pytest.raises(TaskFailed) as caught:
        queue.enqueue(take_more_memory_than_allowed.task(1000)).result(LATE)
    assert (caught.value.reason, caught.value.error_type) == (Reason.ERROR, "MemoryError")
    assert queue.enqueue(add.task(1, 2)).result(LATE) == 3
    assert daemon.worker_pids() == workers
