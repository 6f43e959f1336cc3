"""A `Worker` in one's own process, without a daemon."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from unittest.mock import Mock

import pytest

from fairqued import QueueUnavailable, Reason, StartedTask, Task, TaskFailed, TaskQueue, TaskState
from fairqued.errors import WorkerGone
from fairqued.lease import Lease
from fairqued.worker import TaskHandler, Worker, WorkerSettings
from fairqued.worker.bell import Bell
from fairqued.worker.watch import Watch
from tests.support.daemon import LATE
from tests.support.servers import RedisServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.process


class Shout(TaskHandler):
    """Answers a payload in capitals; some payloads ask for trouble."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def handle(self, task: StartedTask) -> Any:
        match task.payload:
            case "hold":
                assert self.open.wait(LATE)
            case "raise":
                raise ValueError("trouble")
        return str(task.payload).upper()

    def is_retryable(self, task: StartedTask, error: BaseException) -> bool:  # noqa: ARG002
        raise RuntimeError("a hook that is broken itself")


@pytest.fixture
def handler() -> Shout:
    return Shout()


StartWorker = Callable[..., tuple[Worker, "Future[int]"]]


@pytest.fixture
def start(handler: Shout) -> Iterator[StartWorker]:
    """Start a worker in a thread; the future is that of its `run`. It is stopped when the test is over."""
    workers: list[Worker] = []
    threads = ThreadPoolExecutor()

    def start_one(queue: TaskQueue, **settings: Any) -> tuple[Worker, Future[int]]:
        workers.append(Worker(queue, handler, WorkerSettings(**settings)))
        return workers[-1], threads.submit(workers[-1].run)

    yield start_one
    handler.open.set()
    for worker in workers:
        worker.stop(1)
    threads.shutdown()


def test_it_runs_tasks_and_leaves_nothing_behind(queue: TaskQueue, start: StartWorker) -> None:
    worker, run = start(queue)
    handles = queue.enqueue_many(Task[Any](payload=f"word {number}") for number in range(100))
    assert [handle.result(LATE) for handle in handles] == [f"WORD {number}" for number in range(100)]
    worker.stop(LATE)
    run.result(LATE)
    assert queue.stats().workers == []
    worker.stop(0)  # once more does no harm, neither to it nor to the queue
    assert queue._store.connection.give_up_at == math.inf


def test_what_does_not_end_in_time_is_left_to_the_end_of_the_lease(
    queue: TaskQueue, handler: Shout, start: StartWorker
) -> None:
    worker, run = start(queue, threads=1, lease_seconds=0.5, heartbeat_seconds=0.1)
    held, waiting = queue.enqueue_many(Task[Any](payload="hold") for _ in range(2))
    wait_until(lambda: held.state() is TaskState.STARTED, LATE, "it runs")
    worker.stop(0.1)
    assert run.result(LATE) == 1
    assert (held.state(), waiting.state()) == (TaskState.STARTED, TaskState.QUEUED)
    wait_until(lambda: queue._store.tick(500_000, 5_000_000, [])[2] == [worker.worker_id], LATE, "its lease is over")
    assert (held.state(), queue.get(held.task_id).attempts) == (TaskState.QUEUED, 1)
    handler.open.set()
    second, its_run = start(queue)
    assert [handle.result(LATE) for handle in (held, waiting)] == ["HOLD", "HOLD"]
    second.stop(LATE)
    assert its_run.result(LATE) == 0


def test_one_that_was_declared_dead_stops(queue: TaskQueue, start: StartWorker) -> None:
    worker, run = start(queue, heartbeat_seconds=0.05)
    wait_until(lambda: queue.stats().workers, LATE, "it is registered")
    queue._store.reclaim(worker.worker_id, "lost")
    with pytest.raises(WorkerGone):
        run.result(LATE)


def test_its_lease_is_kept_though_a_look_at_what_was_cancelled_fails(
    queue: TaskQueue, start: StartWorker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looks: list[Watch] = []

    def fail(watch: Watch) -> None:
        looks.append(watch)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Watch, "interrupt_cancelled", fail)
    worker, run = start(queue, heartbeat_seconds=0.02)
    wait_until(lambda: len(looks) > 2, LATE, "it looks again")
    worker.stop(LATE)
    assert run.result(LATE) == 0
    assert caplog.text.count("interrupting tasks failed") == 1


def wait_for_more_calls(mock: Mock, number: int) -> None:
    before = mock.call_count
    wait_until(lambda: mock.call_count >= before + number, LATE, f"{number} more calls")


def test_it_fetches_nothing_while_its_lease_is_lost(
    queue: TaskQueue, start: StartWorker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        beat = Mock(side_effect=QueueUnavailable("not now"))
        patch.setattr(Lease, "heartbeat", beat)
        worker, run = start(queue, lease_seconds=0.2, heartbeat_seconds=0.05)
        wait_until(lambda: "the lease is over" in caplog.text, LATE, "it is lost")
        wait_for_more_calls(beat, 3)  # each wakes the loop
        handle = queue.enqueue(Task[Any](payload="word"))
        wait_for_more_calls(beat, 5)
        assert handle.state() is TaskState.QUEUED
    assert handle.result(LATE) == "WORD"
    worker.stop(LATE)
    run.result(LATE)


def test_a_broken_hook_fails_the_task_alone(queue: TaskQueue, start: StartWorker) -> None:
    worker, run = start(queue)
    with pytest.raises(TaskFailed) as caught:
        queue.enqueue(Task[Any](payload="raise", max_retries=3)).result(LATE)
    assert (caught.value.reason, caught.value.error_type) == (Reason.ERROR, "RuntimeError")
    assert "trouble" in caught.value.traceback
    assert queue.enqueue(Task[Any](payload="fine")).result(LATE) == "FINE"
    worker.stop(LATE)
    run.result(LATE)


def test_records_that_cannot_be_read_take_no_slot_and_give_none(
    queue: TaskQueue, handler: Shout, start: StartWorker
) -> None:
    broken = queue.enqueue_many(Task[Any](payload="broken") for _ in range(3))
    held = queue.enqueue_many(Task[Any](payload="hold") for _ in range(4))
    client = queue._store.connection.client
    for handle in broken:
        key = queue._store.keys.of("task", handle.task_id)
        raw = client.get(key)
        assert isinstance(raw, bytes)
        client.set(key, raw.replace(b'{"payload"', b'?"payload?'))
    worker, run = start(queue, threads=3)
    wait_until(lambda: all(handle.state() is TaskState.FAILED for handle in broken), LATE, "they are FAILED")
    wait_until(lambda: queue.stats().started == 3, LATE, "all slots are filled")
    time.sleep(0.1)
    assert sorted(handle.state() for handle in held) == [TaskState.QUEUED] + [TaskState.STARTED] * 3
    assert queue.get(held[0].task_id).reason is None
    handler.open.set()
    for handle in held:
        handle.result(LATE)
    worker.stop(LATE)
    run.result(LATE)


def test_a_script_that_fails_is_tried_until_it_works(
    queue: TaskQueue, handler: Shout, start: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    worker, run = start(queue, heartbeat_seconds=0.05)
    held = queue.enqueue(Task[Any](payload="hold"))
    wait_until(lambda: held.state() is TaskState.STARTED, LATE, "it runs")
    client, ready = queue._store.connection.client, queue._store.keys.of("ready", "default")
    client.delete(ready)
    client.set(ready, "damage")
    handler.open.set()
    wait_until(lambda: caplog.records, LATE, "the worker says so")
    wait_until(lambda: worker._failed_tries >= 4, LATE, "it tries again and again")
    assert [record.getMessage() for record in caplog.records] == ["exchange failed, and is tried again and again"]
    assert not run.done()
    client.delete(ready)
    assert held.result(LATE) == "HOLD"
    assert queue.enqueue(Task[Any](payload="word")).result(LATE) == "WORD"
    worker.stop(LATE)
    run.result(LATE)


def test_the_bell_can_be_lost_any_number_of_times(
    start_server: Callable[..., RedisServer], namespace: str, start: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    queue = TaskQueue(start_server().url, namespace=namespace, user_id="alice")
    bell = Bell(queue._store.connection, ["bell"])
    for _ in range(100):
        bell.arm(1)
        bell.reset()
    worker, run = start(queue)
    with caplog.at_level(logging.INFO, "fairqued.worker"):
        client = queue._store.connection.client
        for _ in range(3):
            assert queue.enqueue(Task[Any](payload="word")).result(LATE) == "WORD"
            wait_until(lambda: _blocked(client), LATE, "it listens")
            client.client_kill_filter(_id=_blocked(client)[0])
    worker.stop(LATE)
    run.result(LATE)
    queue.close()


def _blocked(client: Any) -> list[str]:
    return [each["id"] for each in client.client_list() if each["cmd"] == "bzpopmin" and "b" in each["flags"]]
