"""Tasks whose time is over, that are cancelled, or whose worker has to stop, in real daemons."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from fairqued import Reason, TaskCancelled, TaskFailed, TaskHandle, TaskQueue, TaskState
from fairqued.doctor.fsck import fsck
from tests.daemon.conftest import StartDaemon
from tests.support import process_tasks, timeout_tasks
from tests.support.daemon import LATE, Daemon
from tests.support.servers import RedisServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

IMPORTS = [process_tasks.__name__, timeout_tasks.__name__]
TIMEOUT = "fairqued.errors.TaskTimeout"


@pytest.fixture(scope="module")
def daemon(redis_server: RedisServer) -> Iterator[Daemon]:
    """One daemon for the tests that leave its worker alive."""
    daemon = Daemon(
        redis_server.url, f"test-{uuid.uuid4().hex[:12]}",
        {
            "imports": IMPORTS,
            "pools": [{"name": "main", "processes": 1, "threads": 4}],
            "worker": {"heartbeat_seconds": 0.1, "lease_seconds": 4},
        },
    )  # fmt: skip
    yield daemon.start_and_wait()
    daemon.remove()
    assert fsck(daemon.queue()._store.connection.client, daemon.namespace) == []


@pytest.fixture
def queue(daemon: Daemon) -> Iterator[TaskQueue]:
    """A client of the shared daemon, whose worker has to outlive each test with all its slots."""
    workers = daemon.worker_pids()
    queue = daemon.queue()
    yield queue
    assert [handle.result(LATE) for handle in queue.enqueue_many(process_tasks.add.task(1, 2) for _ in range(8))] == [
        3
    ] * 8
    assert daemon.worker_pids() == workers
    queue.close()


def noted(daemon: Daemon, name: str) -> str:
    """What a task noted, once it did."""
    path = daemon.directory / name
    wait_until(path.exists, LATE, f"{name} is noted")
    return path.read_text()


def failure(handle: TaskHandle[Any]) -> TaskFailed:
    with pytest.raises(TaskFailed) as caught:
        handle.result(LATE)
    return caught.value


@pytest.mark.parametrize(
    ("task", "error"),
    [(timeout_tasks.run, "TaskTimeout"), (timeout_tasks.wait, "CancelledError")],
    ids=["sync", "async"],
)  # fmt: skip
def test_a_task_whose_time_is_over_cleans_up_and_fails(queue: TaskQueue, daemon: Daemon, task: Any, error: str) -> None:
    name = f"timeout-{error}"
    failed = failure(queue.enqueue(task.using(timeout_seconds=0.1).task(name)))
    assert (failed.reason, failed.error_type) == (Reason.TIMEOUT, TIMEOUT)
    assert noted(daemon, f"{name}.end") == error
    assert (daemon.directory / f"{name}.clean").exists()


def test_it_is_tried_again_while_retries_are_left(queue: TaskQueue) -> None:
    assert queue.enqueue(timeout_tasks.be_quick_the_second_time.task()).result(LATE) == 2


def test_except_exception_does_not_keep_a_task_alive(queue: TaskQueue) -> None:
    assert failure(queue.enqueue(timeout_tasks.swallow_exceptions.task())).reason == Reason.TIMEOUT


def test_a_task_that_makes_the_best_of_its_time_has_finished(queue: TaskQueue) -> None:
    assert queue.enqueue(timeout_tasks.make_the_best_of_it.task()).result(LATE) == "half of it"


def test_a_task_asks_for_another_attempt(queue: TaskQueue) -> None:
    assert queue.enqueue(timeout_tasks.ask_for_a_retry.task()).result(LATE) == 2


@pytest.mark.parametrize(
    ("task", "error"),
    [(timeout_tasks.run, "TaskInterrupted"), (timeout_tasks.wait, "CancelledError")],
    ids=["sync", "async"],
)  # fmt: skip
def test_a_running_task_that_is_cancelled_cleans_up_and_ends(
    queue: TaskQueue, daemon: Daemon, task: Any, error: str
) -> None:
    name = f"cancel-{error}"
    handle = queue.enqueue(task.using(max_retries=3).task(name))
    noted(daemon, name)
    assert handle.cancel()
    with pytest.raises(TaskCancelled):
        handle.result(LATE)
    assert noted(daemon, f"{name}.end") == error
    assert (daemon.directory / f"{name}.clean").exists()


def test_hundreds_that_end_about_when_their_time_is_over(queue: TaskQueue) -> None:
    handles = queue.enqueue_many(
        timeout_tasks.take_about_as_long_as_it_may.task(0.02 + (number % 9 - 4) * 0.002) for number in range(300)
    )
    ends = [_end(handle) for handle in handles]
    assert set(ends) == {"7", Reason.TIMEOUT.value}


def _end(handle: TaskHandle[Any]) -> str:
    try:
        return str(handle.result(LATE))
    except TaskFailed as error:
        return error.reason


def test_an_interruption_of_a_task_that_logs_leaves_the_log_to_others(queue: TaskQueue, daemon: Daemon) -> None:
    """A lock that it left behind would hold up whoever logs next."""
    chatters = queue.enqueue_many(timeout_tasks.chatter.task() for _ in range(60))
    assert {failure(handle).reason for handle in chatters} == {Reason.TIMEOUT}
    queue.enqueue(process_tasks.log_lines.task("after all")).result(LATE)
    daemon.wait_for_message("after all", 2)


def test_a_stopped_task_cleans_up_and_runs_again(start_daemon: StartDaemon, redis_server: RedisServer) -> None:
    daemon = start_daemon(
        imports=IMPORTS, pools=[{"name": "main", "processes": 1, "threads": 3}], worker={"drain_seconds": 1}
    )
    queue = daemon.queue()
    sync, coroutine = queue.enqueue(timeout_tasks.run.task("sync")), queue.enqueue(timeout_tasks.wait.task("async"))
    content = queue.enqueue(timeout_tasks.return_when_stopped.task("content"))
    for name in ("sync", "async", "content"):
        noted(daemon, name)
    daemon.terminate()
    daemon.assert_clean_exit(1 + 5)
    assert noted(daemon, "sync.end") == "WorkerStopping"
    assert noted(daemon, "async.end") == "CancelledError"
    assert (daemon.directory / "sync.clean").exists()
    assert (daemon.directory / "async.clean").exists()
    for handle in (sync, coroutine):
        assert (handle.state(), queue.get(handle.task_id).attempts) == (TaskState.QUEUED, 0)
    assert content.result() == "WorkerStopping"
    (said,) = daemon.messages("did not end in time, and are handed back")
    assert all(handle.task_id in said for handle in (sync, coroutine, content))
    queue.close()
