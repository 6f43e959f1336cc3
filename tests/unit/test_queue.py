"""`TaskQueue`, its handles and leases, against real servers."""

import contextvars
import threading
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fairqued import (
    CurrentTask,
    DuplicateTask,
    EnqueueIncomplete,
    InvalidResult,
    InvalidTask,
    NotAllowed,
    PayloadTooLarge,
    Priority,
    QueueLease,
    QueueUnavailable,
    Reason,
    ResultExpired,
    ResultTimeout,
    StartedTask,
    Task,
    TaskCancelled,
    TaskFailed,
    TaskHandle,
    TaskNotFound,
    TaskOptions,
    TaskQueue,
    TaskState,
    as_user,
    default_queue,
    task,
)
from fairqued.context import enter_task
from fairqued.errors import WorkerGone
from fairqued.queue import _chunks, environment_queue
from fairqued.tasks import MAX_SPEC_BYTES
from tests.support.proxy import Faults, FaultyProxy
from tests.support.wait import wait_until


@task
def double(number: int) -> int:
    return 2 * number


@task
def tomorrow(day: datetime) -> datetime:
    return day + timedelta(days=1)


@pytest.fixture
def queue(redis_url: str, namespace: str) -> Iterator[TaskQueue]:
    queue = TaskQueue(redis_url, namespace=namespace, user_id="alice")
    yield queue
    queue.close()


@pytest.fixture
def lease(queue: TaskQueue) -> Iterator[QueueLease]:
    with queue.lease(heartbeat_seconds=0.02) as lease:
        yield lease


def start(lease: QueueLease, handle: TaskHandle[Any] | None = None) -> StartedTask:
    """The next task; the one of `handle` if given."""
    started = wait_until(lease.dequeue, 10, "a task is ready")[0]
    assert handle is None or started.task_id == handle.task_id
    return started


def payload(number: Any, **options: Any) -> Task[Any]:
    return Task(payload=number, **options)


# Enqueue


def test_an_accepted_task_waits(queue: TaskQueue) -> None:
    handle = queue.enqueue(double.task(21), priority=Priority.HIGH, meta={"trace": "1"}, max_retries=3)
    info = handle.info()
    assert handle.state() is info.state is TaskState.QUEUED
    assert (info.task_id, info.user_id, info.queue) == (handle.task_id, "alice", "default")
    assert (info.func, info.args, info.kwargs, info.payload) == (f"{__name__}:double", [21], {}, None)
    assert (info.priority, info.meta, info.max_retries) == (Priority.HIGH, {"trace": "1"}, 3)
    assert (info.attempts, info.failures, info.cancel_asked) == (0, 0, False)
    assert (info.reason, info.error_type, info.error_message) == (None, None, None)
    assert (info.started_at, info.ended_at) == (None, None)
    assert info.due_at == info.enqueued_at
    assert info.enqueued_at.tzinfo is UTC
    assert abs(info.enqueued_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert repr(handle) == f"TaskHandle({handle.task_id!r})"


def test_ids_are_made_where_none_is_given(queue: TaskQueue) -> None:
    ids = {handle.task_id for handle in queue.enqueue_many(payload(number) for number in range(100))}
    assert len(ids) == 100
    assert all(len(task_id) == 24 for task_id in ids)


def test_hostile_ids_stay_as_they_are(queue: TaskQueue) -> None:
    ids = [" ", "*", "{x}:task:{y}", "a:b", "%s", "ü" * 200, *(unicodedata.normalize(f, "é") for f in ("NFC", "NFD"))]
    queue.enqueue_many(payload(number, task_id=task_id, user_id=task_id) for number, task_id in enumerate(ids))
    for number, task_id in enumerate(ids):
        info = queue.get(task_id)
        assert (info.task_id, info.user_id, info.payload) == (task_id, task_id, number)
    assert sorted(user.user_id for user in queue.stats().users) == sorted(ids)


@pytest.mark.parametrize("task_id", ["", "a\n", "\ud800", "x" * 201, "x" * 1_000_000])
def test_a_bad_id_is_refused_everywhere(task_id: str) -> None:
    nowhere = TaskQueue("redis://127.0.0.1:1", user_id="alice")
    calls: list[Callable[[], object]] = [
        lambda: nowhere.enqueue(payload(1), task_id=task_id),
        lambda: nowhere.enqueue(payload(1), user_id=task_id),
        lambda: TaskQueue("redis://127.0.0.1:1", user_id=task_id),
        lambda: nowhere.handle(task_id),
        lambda: nowhere.get(task_id),
        lambda: nowhere.cancel(task_id),
        lambda: nowhere.retry(task_id),
    ]
    for call in calls:
        with pytest.raises(InvalidTask, match=r"^(task|user)_id: "):
            call()


@pytest.mark.parametrize("thing", [double, double(1), "double", None, {"payload": 1}])
def test_only_tasks_are_enqueued(queue: TaskQueue, thing: Any) -> None:
    with pytest.raises(InvalidTask, match=r"expected a Task, found .*; a task function makes one with"):
        queue.enqueue(thing)
    with pytest.raises(InvalidTask, match=r"expected a Task, found"):
        queue.enqueue_many([payload(1), thing])
    assert queue.stats().depth == {}


def test_options_of_the_call_are_checked(queue: TaskQueue) -> None:
    with pytest.raises(InvalidTask, match=r"^usr_id: is not an option of a task; did you mean user_id\?"):
        queue.enqueue(payload(1), usr_id="bob")  # type: ignore[call-arg]
    with pytest.raises(InvalidTask, match=r"^delay_seconds: expected seconds"):
        queue.enqueue(payload(1), delay_seconds=-1)
    with pytest.raises(InvalidTask, match=r"^depends_on: is not supported"):
        queue.enqueue(payload(1), depends_on="1")
    for many in ([], [payload(1)]):
        with pytest.raises(InvalidTask, match=r"^if_exists: expected one of raise, ignore, replace, found 'skip'$"):
            queue.enqueue_many(many, if_exists="skip")  # type: ignore[arg-type]
    with pytest.raises(InvalidTask, match=r"^if_exists: "):
        queue.enqueue(payload(1), if_exists="skip")  # type: ignore[arg-type]
    assert queue.stats().depth == {}


def test_the_largest_spec_goes_through(queue: TaskQueue, lease: QueueLease) -> None:
    room = MAX_SPEC_BYTES - len(payload("").encode_spec())
    handle = queue.enqueue(payload("x" * room))
    assert start(lease, handle).payload == "x" * room
    with pytest.raises(PayloadTooLarge):
        queue.enqueue(payload("x" * (room + 1)))


def test_a_lost_reply_leaves_one_task(redis_url: str, namespace: str) -> None:
    with FaultyProxy(redis_url) as proxy:
        queue = TaskQueue(proxy.url, namespace=namespace, user_id="alice", timeout_seconds=30)
        queue.enqueue(payload(0))
        proxy.inject(Faults(drop_next=1))
        handle = queue.enqueue(payload(1), task_id="1")
        proxy.inject(Faults(drop_next=1))
        handles = queue.enqueue_many(payload(number) for number in range(600))
        assert proxy.counts.replies_dropped == 2
        assert handle.state() == "queued"
        assert queue.stats().depth == {"default": 602}
        assert queue.stats().counters["enqueued"] == 602
        assert len(handles) == 600
        queue.close()


# The same id again


def test_an_id_is_accepted_once(queue: TaskQueue) -> None:
    queue.enqueue(payload(1), task_id="1")
    with pytest.raises(DuplicateTask, match=r"^1 exists already$"):
        queue.enqueue(payload(2), task_id="1")
    assert queue.enqueue(payload(2), task_id="1", if_exists="ignore").info().payload == 1
    assert queue.stats().depth == {"default": 1}


@pytest.mark.parametrize("delay_seconds", [0, 60])
def test_a_task_that_waits_can_be_replaced(queue: TaskQueue, delay_seconds: float) -> None:
    queue.enqueue(payload(1), task_id="1", delay_seconds=delay_seconds)
    replaced = queue.enqueue(payload(2), task_id="1", if_exists="replace", user_id="bob", queue="mail")
    info = replaced.info()
    assert (info.payload, info.user_id, info.queue, info.state) == (2, "bob", "mail", "queued")
    assert queue.stats().depth == {"mail": 1}
    assert queue.stats().scheduled == 0


def test_a_task_that_started_or_ended_cannot_be_replaced(queue: TaskQueue, lease: QueueLease) -> None:
    handle = queue.enqueue(payload(1), task_id="1")
    started = start(lease, handle)
    for _ in range(2):
        with pytest.raises(DuplicateTask, match=r"^1 exists already$"):
            queue.enqueue(payload(2), task_id="1", if_exists="replace")
        assert queue.enqueue(payload(2), task_id="1", if_exists="ignore").info().payload == 1
        lease.finish_task(started)


# Many


def test_many_tasks_keep_their_order(queue: TaskQueue, lease: QueueLease) -> None:
    handles = queue.enqueue_many((payload(number) for number in range(1203)), queue="default", user_id="bob")
    assert queue.stats().depth == {"default": 1203}
    started = [each for _ in range(13) for each in lease.dequeue(100)]
    assert [each.task_id for each in started] == [handle.task_id for handle in handles]
    assert [each.payload for each in started] == list(range(1203))
    assert {each.user_id for each in started} == {"bob"}


def test_no_tasks_at_all_need_no_server() -> None:
    assert TaskQueue("redis://127.0.0.1:1").enqueue_many([]) == []


def test_chunks_are_cut_by_count_and_by_size() -> None:
    assert list(_chunks([])) == []
    assert list(_chunks([1] * 200)) == [(0, 200)]
    assert list(_chunks([1] * 401)) == [(0, 200), (200, 400), (400, 401)]
    assert list(_chunks([262_144] * 9)) == [(0, 4), (4, 8), (8, 9)]
    assert list(_chunks([1_048_576, 1, 1])) == [(0, 1), (1, 3)]


def test_a_failure_in_a_later_chunk_says_what_was_enqueued(queue: TaskQueue) -> None:
    queue.enqueue(payload(0), task_id="300")
    many = [payload(number, task_id=str(number)) for number in range(401)]
    with pytest.raises(EnqueueIncomplete) as caught:
        queue.enqueue_many(many)
    assert str(caught.value) == "200 of 401 tasks were enqueued, then: 300 exists already"
    assert [handle.task_id for handle in caught.value.handles] == [str(number) for number in range(200)]
    assert isinstance(caught.value.__cause__, DuplicateTask)
    assert queue.stats().depth == {"default": 201}
    for absent in ("200", "299", "400"):
        with pytest.raises(TaskNotFound):
            queue.get(absent)
    assert len(queue.enqueue_many(many, if_exists="ignore")) == 401
    assert queue.stats().depth == {"default": 401}


def test_a_failure_in_the_first_chunk_enqueues_nothing(queue: TaskQueue) -> None:
    queue.enqueue(payload(0), task_id="7")
    with pytest.raises(DuplicateTask, match=r"^7 exists already$"):
        queue.enqueue_many(payload(number, task_id=str(number)) for number in range(600))
    assert queue.stats().depth == {"default": 1}


@pytest.mark.parametrize("if_exists", ["raise", "ignore", "replace"])
@pytest.mark.parametrize("other", [1, 700])
def test_one_id_twice_in_one_call_enqueues_nothing(queue: TaskQueue, if_exists: Any, other: int) -> None:
    many = [payload(number) for number in range(800)]
    many[0] = many[other] = payload(0, task_id="twin")
    with pytest.raises(DuplicateTask, match=r"^task twin is twice in one call$"):
        queue.enqueue_many(many, if_exists=if_exists)
    assert queue.stats().depth == {}


def test_every_task_is_checked_before_the_first_is_sent(queue: TaskQueue) -> None:
    bad: list[tuple[Task[Any], TaskOptions, type[Exception]]] = [
        (payload("x" * MAX_SPEC_BYTES), {}, PayloadTooLarge),
        (payload(1), {"queue": "a b"}, InvalidTask),
    ]
    for last, options, kind in bad:
        with pytest.raises(kind):
            queue.enqueue_many([*(payload(number) for number in range(600)), last], **options)
    assert queue.stats().depth == {}


@pytest.mark.parametrize("tasks", [payload(1), 7, None])
def test_one_task_is_not_many(tasks: Any) -> None:
    with pytest.raises(InvalidTask, match=r"^expected several tasks, found .*; enqueue\(…\) takes a single one$"):
        TaskQueue("redis://127.0.0.1:1").enqueue_many(tasks)


# When


def test_a_delayed_task_is_scheduled(queue: TaskQueue) -> None:
    info = queue.enqueue(payload(1), delay_seconds=60.5).info()
    assert info.state is TaskState.SCHEDULED
    assert info.due_at - info.enqueued_at == timedelta(seconds=60.5)


def test_a_task_can_be_due_at_a_moment(queue: TaskQueue) -> None:
    moment = datetime.now(UTC).replace(microsecond=999_999) + timedelta(days=3650)
    info = queue.enqueue(payload(1), run_at=moment).info()
    assert (info.state, info.due_at) == ("scheduled", moment)
    past = queue.enqueue(payload(1), run_at=datetime(1950, 1, 1, tzinfo=UTC)).info()
    assert (past.state, past.due_at) == ("queued", datetime(1950, 1, 1, tzinfo=UTC))


def test_a_delayed_task_starts_when_it_is_due(queue: TaskQueue, lease: QueueLease) -> None:
    handle = queue.enqueue(payload(1), delay_seconds=0.05)
    started = start(lease, handle)
    info = handle.info()
    assert info.started_at is not None
    assert info.started_at >= info.due_at
    lease.finish_task(started)


# Whose


def in_task(work: Callable[[], TaskHandle[Any]], user_id: str = "running") -> TaskHandle[Any]:
    def run() -> TaskHandle[Any]:
        enter_task(CurrentTask(task_id="1", user_id=user_id))
        return work()

    return contextvars.Context().run(run)


def test_the_nearest_user_wins(queue: TaskQueue) -> None:
    def whose(handle: TaskHandle[Any]) -> str:
        return handle.info().user_id

    def in_block(*, user_id: str | None = None) -> TaskHandle[Any]:
        with as_user("block"):
            return queue.enqueue(payload(1, user_id=user_id))

    assert whose(queue.enqueue(payload(1))) == "alice"
    assert whose(in_task(lambda: queue.enqueue(payload(1)))) == "running"
    assert whose(in_task(in_block)) == "block"
    assert whose(in_task(lambda: in_block(user_id="task"))) == "task"
    assert whose(queue.enqueue(payload(1, user_id="task"), user_id="call")) == "call"
    assert whose(in_block(user_id="task")) == "task"


def test_without_a_user_nothing_is_enqueued(redis_url: str, namespace: str) -> None:
    queue = TaskQueue(redis_url, namespace=namespace)
    with pytest.raises(InvalidTask, match=r"^user_id: whose task is it\? Give user_id to the task or to TaskQueue, or"):
        queue.enqueue(payload(1))
    with pytest.raises(InvalidTask, match=r"^user_id: whose task is it\?"):
        queue.enqueue_many([payload(1, user_id="bob"), payload(2)])
    assert queue.stats().depth == {}
    queue.close()


def test_a_task_function_uses_the_default_queue(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIRQUED_REDIS_URL", redis_url)
    monkeypatch.setenv("FAIRQUED_NAMESPACE", namespace)
    environment_queue.cache_clear()
    try:
        handle = double.using(user_id="bob", queue="mail").enqueue(3)
        assert default_queue() is default_queue()
        assert (handle.info().user_id, handle.info().queue, handle.info().args) == ("bob", "mail", [3])
        default_queue().close()
    finally:
        environment_queue.cache_clear()


# Get, cancel, retry


def test_an_unknown_task(queue: TaskQueue) -> None:
    handle = queue.handle("nobody")
    calls: list[Callable[[], object]] = [handle.state, handle.info, handle.cancel, handle.retry, handle.result]
    for call in calls:
        with pytest.raises(
            TaskNotFound, match=r"^task nobody is not known: it never existed, or its retention is over$"
        ):
            call()


@pytest.mark.parametrize("delay_seconds", [0, 60])
def test_a_task_that_waits_is_cancelled_at_once(queue: TaskQueue, delay_seconds: float) -> None:
    handle = queue.enqueue(payload(1), delay_seconds=delay_seconds)
    assert handle.cancel()
    assert handle.cancel()
    assert handle.state() is TaskState.CANCELLED
    assert handle.info().ended_at is not None
    with pytest.raises(TaskCancelled, match=f"^task {handle.task_id} was cancelled$"):
        handle.result()


@pytest.mark.parametrize("end", ["finish", "fail"])
def test_a_started_task_is_asked_to_end(queue: TaskQueue, lease: QueueLease, end: str) -> None:
    handle = queue.enqueue(payload(1), max_retries=3)
    started = start(lease, handle)
    assert handle.cancel()
    assert (handle.state(), handle.info().cancel_asked) == ("started", True)
    wait_until(started.cancelled.is_set, 10, "the worker is told")
    if end == "finish":
        lease.finish_task(started, 7)
    else:
        lease.fail_task(started, "gave up")
    assert handle.state() is TaskState.CANCELLED


def test_a_task_that_ended_is_not_cancelled(queue: TaskQueue, lease: QueueLease) -> None:
    handle = queue.enqueue(payload(1))
    lease.finish_task(start(lease, handle))
    assert not handle.cancel()
    assert handle.state() is TaskState.FINISHED


def test_a_failed_or_cancelled_task_can_run_again(queue: TaskQueue, lease: QueueLease) -> None:
    handle = queue.enqueue(payload(1))
    assert not handle.retry()
    lease.fail_task(start(lease, handle), "no")
    assert (handle.state(), handle.info().failures) == ("failed", 1)
    assert handle.retry()
    assert (handle.state(), handle.info().failures, handle.info().reason) == ("queued", 0, None)
    assert handle.cancel()
    assert queue.retry(handle.task_id)
    started = start(lease, handle)
    assert not handle.retry()
    lease.finish_task(started, "at last")
    assert handle.result() == "at last"
    assert not handle.retry()


# Results


def test_a_result_comes_back(queue: TaskQueue, lease: QueueLease) -> None:
    values: list[Any] = [7, "ü", [1.5, {"a": None}], True, {}, ""]
    for value in values:
        handle = queue.enqueue(payload(1))
        lease.finish_task(start(lease, handle), value)
        assert handle.result() == value
        assert queue.handle(handle.task_id).result(0) == value


def test_none_is_a_result(queue: TaskQueue, lease: QueueLease) -> None:
    handle = queue.enqueue(payload(1))
    lease.finish_task(start(lease, handle))
    assert handle.result(timeout_seconds=0) is None


def test_a_result_is_waited_for(queue: TaskQueue, lease: QueueLease) -> None:
    handle = queue.enqueue(double.task(21))
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(handle.result, 30)
        lease.finish_task(start(lease, handle), 42)
        assert waiting.result() == 42


def test_a_result_of_the_declared_type(queue: TaskQueue, lease: QueueLease) -> None:
    day = datetime(2030, 1, 1, tzinfo=UTC)
    handle = queue.enqueue(tomorrow.task(day))
    lease.finish_task(start(lease, handle), "2030-01-02T00:00:00Z")
    assert handle.result() == day + timedelta(days=1)
    assert queue.handle(handle.task_id).result() == "2030-01-02T00:00:00Z"


def test_a_result_of_another_type(queue: TaskQueue, lease: QueueLease) -> None:
    handle = queue.enqueue(tomorrow.task(datetime(2030, 1, 1, tzinfo=UTC)))
    lease.finish_task(start(lease, handle), 7)
    with pytest.raises(
        InvalidResult, match=f"^task {handle.task_id}: its result is not .*datetime.*Expected `datetime`"
    ):
        handle.result()


@pytest.mark.parametrize("timeout_seconds", [0, 0.05])
def test_a_result_that_does_not_come_in_time(queue: TaskQueue, timeout_seconds: float) -> None:
    handle = queue.enqueue(payload(1))
    with pytest.raises(ResultTimeout, match=f"^task {handle.task_id} is still queued after {timeout_seconds:g} s$"):
        handle.result(timeout_seconds)
    assert issubclass(ResultTimeout, TimeoutError)


@pytest.mark.parametrize("timeout_seconds", [-1, float("nan"), "1"])
def test_a_bad_timeout_is_refused(timeout_seconds: Any) -> None:
    with pytest.raises(InvalidTask, match=r"^timeout_seconds: expected seconds"):
        TaskQueue("redis://127.0.0.1:1").handle("1").result(timeout_seconds)


def test_what_a_failed_task_tells(queue: TaskQueue, lease: QueueLease) -> None:
    handle = queue.enqueue(payload(1))
    started = start(lease, handle)
    lease.fail_task(started, ValueError("no such file"))
    with pytest.raises(TaskFailed, match=r"^ValueError: no such file$") as caught:
        handle.result()
    error = caught.value
    assert (error.error_type, error.message, error.reason) == ("ValueError", "no such file", Reason.ERROR)
    info = handle.info()
    assert (info.state, info.reason, info.error_type, info.error_message) == (
        "failed",
        Reason.ERROR,
        "ValueError",
        "no such file",
    )
    assert info.ended_at is not None


def test_a_result_is_kept_for_its_time(queue: TaskQueue, lease: QueueLease) -> None:
    handle = queue.enqueue(payload(1), result_ttl_seconds=0.05)
    lease.finish_task(start(lease, handle), 7)

    def has_expired() -> bool:
        try:
            return bool(handle.result() != 7)
        except ResultExpired:
            return True

    wait_until(has_expired, 10, "the result expires")
    with pytest.raises(ResultExpired, match=rf"^task {handle.task_id} finished, but its result is not kept"):
        handle.result()
    assert handle.state() is TaskState.FINISHED


def test_a_result_that_nobody_wants_is_not_stored(queue: TaskQueue, lease: QueueLease) -> None:
    handle = queue.enqueue(payload(1), store_result=False)
    lease.finish_task(start(lease, handle), 7)
    with pytest.raises(ResultExpired):
        handle.result()


def test_a_task_does_not_wait_for_another(queue: TaskQueue, lease: QueueLease) -> None:
    handle = queue.enqueue(payload(1))
    lease.finish_task(start(lease, handle), 7)

    def in_a_task() -> None:
        enter_task(CurrentTask(task_id="1"))
        with pytest.raises(NotAllowed, match=r"^result\(\) inside a task can wait for ever; pass inside_task=True"):
            handle.result(1)
        assert handle.result(1, inside_task=True) == 7

    contextvars.Context().run(in_a_task)


def test_waiting_needs_redis() -> None:
    queue = TaskQueue("redis://127.0.0.1:1", timeout_seconds=0.1)
    with pytest.raises(QueueUnavailable):
        queue.handle("1").result(60)


# Leases


def test_a_lease_starts_what_waits(queue: TaskQueue) -> None:
    queue.enqueue(payload(1), queue="mail", meta={"a": "b"}, max_retries=2)
    with queue.lease(["other", "mail"]) as lease:
        (started,) = lease.dequeue(5)
        assert lease.dequeue(5) == []
        assert (started.payload, started.meta, started.attempt, started.retries_left) == (1, {"a": "b"}, 1, 2)
        assert queue.get(started.task_id).state is TaskState.STARTED
        assert queue.stats().started == 1


@pytest.mark.parametrize("queues", ["default", ["a b"], [""], [7], 7, None])
def test_a_lease_of_bad_queues_is_refused(queue: TaskQueue, queues: Any) -> None:
    with pytest.raises(InvalidTask, match=r"^queues: "):
        queue.lease(queues)


def test_an_attempt_that_failed_is_repeated_while_retries_are_left(queue: TaskQueue, lease: QueueLease) -> None:
    handle = queue.enqueue(payload(1), max_retries=2, retry_backoff_seconds=[0.01, 0.02])
    for attempt in (1, 2):
        started = start(lease, handle)
        assert (started.attempt, started.retries_left) == (attempt, 3 - attempt)
        lease.fail_task(started, f"error {attempt}")
        info = handle.info()
        assert info.state in ("scheduled", "queued")
        assert (info.failures, info.error_type, info.error_message) == (attempt, "TaskError", f"error {attempt}")
    started = start(lease, handle)
    assert (started.attempt, started.retries_left) == (3, 0)
    lease.fail_task(started, OSError("error 3"))
    info = handle.info()
    assert (info.state, info.attempts, info.failures, info.error_message) == ("failed", 3, 3, "error 3")


def test_the_pause_before_the_next_attempt(queue: TaskQueue, lease: QueueLease) -> None:
    cases: list[tuple[TaskOptions, float, float]] = [
        ({"retry_backoff_seconds": 100}, 50, 100),
        ({"retry_backoff_seconds": [30, 60]}, 30, 30),
        ({"retry_backoff_seconds": []}, 0, 0),
        ({"retry_backoff_seconds": 1000, "retry_backoff_max_seconds": 10}, 5, 10),
        ({"retry_backoff_seconds": [1000], "retry_backoff_max_seconds": 10}, 10, 10),
    ]
    for options, least, most in cases:
        handle = queue.enqueue(payload(1, max_retries=5), **options)
        started = start(lease, handle)
        before = queue.stats().at
        lease.fail_task(started, "again")
        after = queue.stats().at
        due = handle.info().due_at
        assert before + timedelta(seconds=least) <= due <= after + timedelta(seconds=most)
        handle.cancel()


def test_an_attempt_can_fail_for_good(queue: TaskQueue, lease: QueueLease) -> None:
    handle = queue.enqueue(payload(1), max_retries=5)
    lease.fail_task(start(lease, handle), "hopeless", retry=False)
    assert handle.state() is TaskState.FAILED


def test_a_completion_can_be_repeated(queue: TaskQueue, lease: QueueLease) -> None:
    handle = queue.enqueue(payload(1))
    started = start(lease, handle)
    lease.finish_task(started, 7)
    lease.finish_task(started, 8)
    lease.fail_task(started, "late")
    assert handle.result() == 7
    assert queue.stats().counters["finished"] == 1


def test_a_result_that_is_no_json_leaves_the_task_to_its_holder(queue: TaskQueue, lease: QueueLease) -> None:
    handle = queue.enqueue(payload(1))
    started = start(lease, handle)
    with pytest.raises(InvalidTask, match=r"^the result\[0\]: builtins\.set has no form in JSON"):
        lease.finish_task(started, [{1}])
    with pytest.raises(PayloadTooLarge, match=r"the result takes 262146 bytes"):
        lease.finish_task(started, "x" * 262_144)
    assert handle.state() is TaskState.STARTED
    lease.finish_task(started, "x" * 262_142)
    assert len(handle.result()) == 262_142


def test_leaving_the_block_hands_back_without_counting_an_attempt(queue: TaskQueue) -> None:
    handle = queue.enqueue(payload(1))
    others = queue.enqueue_many(payload(number) for number in range(3))
    with queue.lease() as lease:
        first = start(lease, handle)
        lease.dequeue(10)
        lease.finish_task(first, 7)
    assert handle.state() is TaskState.FINISHED
    with pytest.raises(KeyError), queue.lease() as lease:
        raise KeyError(lease.dequeue(10))
    for other in others:
        assert (other.state(), other.info().attempts) == ("queued", 0)
    assert queue.stats().workers == []
    with queue.lease() as lease:
        assert [each.attempt for each in lease.dequeue(10)] == [1, 1, 1]


def test_a_lease_that_is_lost_is_noticed(queue: TaskQueue) -> None:
    handle = queue.enqueue(payload(1))
    with queue.lease(heartbeat_seconds=0.02) as lease:
        started = start(lease, handle)
        (worker,) = queue.stats().workers
        queue._store.reclaim(worker.worker_id, "lost")
        with pytest.raises(WorkerGone):
            lease.finish_task(started, 7)
        with pytest.raises(WorkerGone):
            lease.dequeue()
    assert (handle.state(), handle.info().attempts) == ("queued", 1)


def test_a_lease_is_renewed_by_heartbeats(queue: TaskQueue) -> None:
    def end_of_lease() -> datetime:
        stats = queue.stats()
        return stats.at + timedelta(seconds=stats.workers[0].lease_seconds)

    with queue.lease(lease_seconds=60, heartbeat_seconds=0.02):
        first = end_of_lease()
        wait_until(lambda: end_of_lease() > first + timedelta(seconds=0.01), 10, "the lease is renewed")


def test_leases_in_threads_share_the_work(queue: TaskQueue) -> None:
    queue.enqueue_many(payload(number) for number in range(200))
    seen: list[str] = []
    lock = threading.Lock()

    def work() -> None:
        with queue.lease() as lease:
            while started := lease.dequeue(3):
                for each in started:
                    lease.finish_task(each)
                with lock:
                    seen.extend(each.task_id for each in started)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work) for _ in range(4)]:
            done.result()
    assert len(seen) == len(set(seen)) == 200
    assert queue.stats().finished == 200


# Stats


@pytest.mark.parametrize("most_users", ["x", -1, 1.5, None])
def test_a_bad_number_of_users_is_refused(most_users: Any) -> None:
    with pytest.raises(InvalidTask, match=r"^most_users: expected a whole number from 0 to 65535, found "):
        TaskQueue("redis://127.0.0.1:1").stats(most_users=most_users)


def test_stats_of_a_namespace(queue: TaskQueue) -> None:
    empty = queue.stats()
    assert (empty.depth, empty.scheduled, empty.started, empty.finished) == ({}, 0, 0, 0)
    assert (empty.failed, empty.cancelled, empty.counters, empty.users, empty.workers) == (0, 0, {}, [], [])

    queue.enqueue_many(payload(number, user_id="bob") for number in range(5))
    queue.enqueue(payload(1), queue="mail")
    queue.enqueue(payload(1), delay_seconds=60)
    queue.enqueue(payload(1), queue="mail").cancel()
    with queue.lease() as lease:
        first, second, _ = lease.dequeue(3)
        lease.finish_task(first)
        lease.fail_task(second, "no")
        stats = queue.stats()
        assert stats.depth == {"default": 2, "mail": 1}
        assert (stats.scheduled, stats.started, stats.finished, stats.failed, stats.cancelled) == (1, 1, 1, 1, 1)
        assert stats.counters == {"enqueued": 8, "started": 3, "finished": 1, "failed": 1, "cancelled": 1}
        found = {(user.queue, user.user_id): (user.waiting, user.running, user.is_parked) for user in stats.users}
        assert found == {("default", "bob"): (2, 1, False), ("mail", "alice"): (1, 0, False)}
        (worker,) = stats.workers
        assert worker.held == 1
        assert 0 < worker.lease_seconds <= 15
        assert worker.info["queues"] == ["default"]
        assert len(queue.stats(most_users=0).users) <= 2


def test_stats_can_leave_the_users_out(queue: TaskQueue) -> None:
    queue.enqueue_many(Task(user_id=f"u{number}") for number in range(5))
    assert queue.stats(most_users=0).users == []
    assert len(queue.stats(most_users=3).users) == 3
