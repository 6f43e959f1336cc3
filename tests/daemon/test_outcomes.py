"""Whatever a task does, its worker goes on, and its record says what happened. One daemon serves all these tests."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from fairqued import Reason, Task, TaskFailed, TaskQueue, TaskState
from fairqued.doctor.fsck import fsck
from tests.support import process_tasks
from tests.support.daemon import LATE, Daemon
from tests.support.servers import RedisServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

MODULE = process_tasks.__name__
NO_TEXT = "(its text cannot be shown"


@pytest.fixture(scope="module")
def daemon(redis_server: RedisServer) -> Iterator[Daemon]:
    daemon = Daemon(
        redis_server.url, f"test-{uuid.uuid4().hex[:12]}",
        {"worker": {"unknown_function_seconds": 1.5}, "pools": [{"name": "main", "processes": 1, "threads": 8}]},
    )  # fmt: skip
    yield daemon.start_and_wait()
    daemon.remove()
    assert fsck(daemon.queue()._store.connection.client, daemon.namespace) == []


@pytest.fixture
def queue(daemon: Daemon) -> Iterator[TaskQueue]:
    """A client of the shared daemon, whose worker has to outlive each test."""
    workers = daemon.worker_pids()
    queue = daemon.queue()
    yield queue
    assert queue.enqueue(process_tasks.add.task(1, 2)).result(LATE) == 3
    assert daemon.worker_pids() == workers
    queue.close()


def failure(queue: TaskQueue, task: Task[Any]) -> TaskFailed:
    with pytest.raises(TaskFailed) as caught:
        queue.enqueue(task).result(LATE)
    return caught.value


@pytest.mark.parametrize(
    ("task", "kind", "message"),
    [
        (process_tasks.boom.task("no luck"), "ValueError", "no luck"),
        (process_tasks.leave.task(3), "SystemExit", "3"),
        (process_tasks.interrupt.task(), "KeyboardInterrupt", ""),
        (process_tasks.boom_unspeakably.task(), f"{MODULE}.UnspeakableError", f"{NO_TEXT}: RuntimeError)"),
        (process_tasks.boom_interrupting.task(), f"{MODULE}.InterruptingError", f"{NO_TEXT}: KeyboardInterrupt)"),
    ],
    ids=["raise", "sys.exit", "interrupt", "unspeakable", "interrupting"],
)  # fmt: skip
def test_what_a_task_raises(queue: TaskQueue, task: Task[Any], kind: str, message: str) -> None:
    error = failure(queue, task)
    assert (error.reason, error.error_type) == (Reason.ERROR, kind)
    assert error.message == message or not message
    assert MODULE.rpartition(".")[2] in error.traceback


def test_a_message_of_a_megabyte_is_cut(queue: TaskQueue) -> None:
    error = failure(queue, process_tasks.boom_long.task(1_000_000))
    assert error.error_type == "ValueError"
    assert 1000 < len(error.message) < 10_000
    assert len(error.traceback) < 10_000


def test_a_result_that_is_too_large(queue: TaskQueue) -> None:
    error = failure(queue, process_tasks.text.task(262_144))
    assert error.reason == Reason.ERROR
    assert "the result takes 262146 bytes, at most 262144 are allowed" in error.message
    assert len(queue.enqueue(process_tasks.text.task(262_142)).result(LATE)) == 262_142


def test_a_result_that_is_no_json(queue: TaskQueue) -> None:
    error = failure(queue, process_tasks.an_object.task())
    assert error.reason == Reason.ERROR
    assert "the result: builtins.object has no form in JSON" in error.message


def test_a_result_that_no_attempt_can_mend_is_not_tried_again(queue: TaskQueue) -> None:
    handle = queue.enqueue(process_tasks.an_object.using(max_retries=5).task())
    with pytest.raises(TaskFailed):
        handle.result(LATE)
    assert queue.get(handle.task_id).attempts == 1


def test_coroutines_and_types_beyond_json(queue: TaskQueue) -> None:
    assert queue.enqueue(process_tasks.double.task(21)).result(LATE) == 42
    assert queue.enqueue(process_tasks.moment.task()).result(LATE) == datetime(2024, 2, 29, 12, 0, tzinfo=UTC)
    when = datetime(2024, 2, 29, 12, 0, tzinfo=UTC)
    assert queue.enqueue(process_tasks.later.task(when)).result(LATE) == "2024-02-29T12:00:00+00:00"


def test_a_retry_that_succeeds(queue: TaskQueue) -> None:
    assert queue.enqueue(process_tasks.fail_once.task()).result(LATE) == 2


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Task[Any](func=f"{MODULE}:add", args=[1]), "missing a required argument: 'b'"),
        (Task[Any](func=f"{MODULE}:add", args=[1, 2, 3]), "too many positional arguments"),
        (Task[Any](func=f"{MODULE}:add", args=[1], kwargs={"c": 2}), "missing a required argument: 'b'"),
        (Task[Any](func=f"{MODULE}:later", args=["yesterday"]), "Invalid RFC3339"),
        (Task[Any](payload={"a": 1}), "the task names no function"),
    ],
    ids=["missing", "too-many", "unknown", "wrong-type", "payload"],
)
def test_bad_arguments(queue: TaskQueue, task: Task[Any], message: str) -> None:
    error = failure(queue, task)
    assert error.reason == Reason.BAD_ARGUMENTS
    assert message in error.message


def test_a_function_that_is_not_there_is_waited_for(queue: TaskQueue) -> None:
    handle = queue.enqueue(Task[Any](func=f"{MODULE}:ad"))
    wait_until(lambda: handle.state() is TaskState.SCHEDULED, LATE, "it is handed back")
    assert queue.get(handle.task_id).attempts == 0
    with pytest.raises(TaskFailed) as caught:
        handle.result(LATE)
    assert caught.value.reason == Reason.UNKNOWN_FUNCTION
    assert f"the nearest is '{MODULE}:add'" in caught.value.message


@pytest.mark.parametrize(
    "name", ["tests.support.foreign_tasks:foreign", "os:system", "builtins:eval", f"{MODULE}:time.sleep"]
)
def test_only_functions_of_imported_modules_are_called(queue: TaskQueue, name: str) -> None:
    handle = queue.enqueue(Task[Any](func=name, args=[]))
    wait_until(lambda: handle.state() is TaskState.SCHEDULED, LATE, "it is handed back")
    assert queue.cancel(handle.task_id)


def test_each_task_runs_in_a_context_of_its_own(queue: TaskQueue) -> None:
    users = [f"user-{number}" for number in range(50)]
    handles = [queue.enqueue(process_tasks.who.task(), user_id=user) for user in users]
    assert [handle.result(LATE) for handle in handles] == users


def test_a_task_can_enqueue_another_for_its_user(queue: TaskQueue) -> None:
    task_id = queue.enqueue(process_tasks.pass_on.task(2, 3), user_id="nested").result(LATE)
    passed_on = queue.handle(task_id)
    assert passed_on.result(LATE) == 5
    assert passed_on.info().user_id == "nested"
