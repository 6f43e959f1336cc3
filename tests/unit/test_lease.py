"""Leases in one's own process: shared by threads, over records that cannot be read, and with Redis gone at the end."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fairqued import InvalidTask, QueueUnavailable, Reason, StartedTask, Task, TaskHandle, TaskQueue, TaskState
from fairqued.errors import WorkerGone
from fairqued.lease import Completion, Exchange, Lease
from fairqued.record import FENCE_FIELD, HEADER
from tests.support.servers import RedisServer
from tests.support.wait import wait_until

StartServer = Callable[..., RedisServer]


@pytest.fixture
def queue(redis_url: str, namespace: str) -> Iterator[TaskQueue]:
    queue = TaskQueue(redis_url, namespace=namespace, user_id="alice", timeout_seconds=1)
    yield queue
    queue.close()


def payload(number: int) -> Task[Any]:
    return Task(payload=number)


def damage(queue: TaskQueue, handle: TaskHandle[Any]) -> None:
    """Make the spec of a task unreadable; its header stays as it is."""
    client, key = queue._store.connection.client, queue._store.keys.of("task", handle.task_id)
    raw = client.get(key)
    assert isinstance(raw, bytes)
    client.set(key, raw.replace(b'{"payload"', b'?"payload?'))


def test_threads_that_share_a_lease_get_each_task_once(queue: TaskQueue) -> None:
    queue.enqueue_many(payload(number) for number in range(300))
    seen: list[str] = []
    threads = 8
    together = threading.Barrier(threads)

    with queue.lease(heartbeat_seconds=0.02) as lease, ThreadPoolExecutor(threads) as pool:

        def work() -> None:
            together.wait(10)
            while started := lease.dequeue(2):
                for each in started:
                    seen.append(each.task_id)
                    lease.finish_task(each)

        for done in [pool.submit(work) for _ in range(threads)]:
            done.result(60)
    assert len(seen) == len(set(seen)) == 300
    assert queue.stats().finished == 300


def test_a_heartbeat_does_not_put_back_what_cannot_be_read(queue: TaskQueue) -> None:
    handle = queue.enqueue(payload(1))
    damage(queue, handle)
    lease = Lease(queue._store, ["default"], worker_id="w")
    lease.register({})
    answer = lease.exchange([], 1)
    assert (answer.started, [each.task_id for each in answer.unreadable]) == ([], [handle.task_id])
    lease.heartbeat()
    assert handle.state() is TaskState.STARTED
    lease.exchange(answer.unreadable, 0)
    assert queue._read(handle.task_id).reason is Reason.CORRUPT
    lease.heartbeat()
    assert queue.stats().started == 0


def test_what_cannot_be_read_does_not_hide_what_was_started_with_it(
    queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, fine = queue.enqueue_many([payload(1), payload(2)])
    damage(queue, broken)
    whole = Lease.exchange

    def exchange(lease: Lease, completions: Sequence[Completion], most: int) -> Exchange:
        if completions:
            raise QueueUnavailable
        return whole(lease, completions, most)

    with queue.lease(heartbeat_seconds=0.02) as lease:
        with monkeypatch.context() as patch:
            patch.setattr(Lease, "exchange", exchange)
            (started,) = lease.dequeue(2)
        lease.finish_task(started, 7)
    assert fine.result() == 7
    assert broken.state() is TaskState.QUEUED


@pytest.mark.parametrize("most", ["x", 0, -1, 201, 1.0, None, True])
def test_a_bad_number_of_tasks_is_refused(queue: TaskQueue, most: Any) -> None:
    with queue.lease() as lease, pytest.raises(InvalidTask, match=r"^most: expected a whole number from 1 to 200"):
        lease.dequeue(most)


@pytest.mark.parametrize(
    ("times", "why"),
    [
        ({"lease_seconds": 0.001}, r"^lease_seconds: expected at least 4, .*found 0\.001$"),
        ({"lease_seconds": 3.9, "heartbeat_seconds": 1}, r"^lease_seconds: expected at least 4, .*found 3\.9$"),
        ({"lease_seconds": 8}, r"^lease_seconds: .*at least 3 times heartbeat_seconds \(3\), found 8$"),
        ({"lease_seconds": "x"}, r"^lease_seconds: expected seconds from 0 to .*, found 'x'$"),
        ({"lease_seconds": float("nan")}, r"^lease_seconds: expected seconds from 0 to .*, found nan$"),
        ({"heartbeat_seconds": 0}, r"^heartbeat_seconds: expected at least 0\.01, found 0$"),
        ({"heartbeat_seconds": None}, r"^heartbeat_seconds: expected seconds from 0 to .*, found None$"),
    ],
)
def test_times_that_no_lease_can_keep_are_refused(times: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidTask, match=why):
        TaskQueue("redis://127.0.0.1:1").lease(**times)


def test_a_lease_that_cannot_be_left_does_not_mask_the_error_of_its_block(
    start_server: StartServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server()
    queue = TaskQueue(server.url, namespace=namespace, user_id="alice", timeout_seconds=0.2)

    def fail_within() -> None:
        with queue.lease():
            server.kill()
            raise KeyError

    with pytest.raises(KeyError), caplog.at_level(logging.WARNING, "fairqued.lease"):
        fail_within()
    assert "is put back when its lease ends" in caplog.text
    queue.close()


def test_a_lease_that_cannot_be_left_is_an_error(start_server: StartServer, namespace: str) -> None:
    server = start_server()
    queue = TaskQueue(server.url, namespace=namespace, user_id="alice", timeout_seconds=0.2)
    with pytest.raises(QueueUnavailable), queue.lease():
        server.kill()
    queue.close()


def test_tasks_are_marked_while_the_lease_is_over_and_stay_so_if_they_are_known_to_be_lost(queue: TaskQueue) -> None:
    queue.enqueue_many(payload(number) for number in range(3))
    lease = Lease(queue._store, ["default"], worker_id="w", lease_seconds=60)
    lease.register({})
    tasks = lease.exchange([], 3).started

    def marks() -> list[bool]:
        return [task.lease_lost.is_set() for task in tasks]

    assert not lease.judge()
    lease._renewed_at -= 61
    assert lease.judge()
    assert marks() == [True, True, True]
    assert not lease.judge(vouched_at=time.monotonic())
    assert marks() == [False, False, False]
    assert lease.judge()
    replace_fence(queue, tasks[2])
    lease.heartbeat()
    assert not lease.judge()
    assert marks() == [False, False, True]


def replace_fence(queue: TaskQueue, task: StartedTask) -> None:
    """As if the task had been reclaimed, and were held by another worker."""
    client, key = queue._store.connection.client, queue._store.keys.of("task", task.task_id)
    raw = client.get(key)
    assert isinstance(raw, bytes)
    fields = list(HEADER.unpack_from(raw))
    fields[FENCE_FIELD] += 1
    client.set(key, HEADER.pack(*fields) + raw[HEADER.size :])


def test_a_lease_in_ones_own_process_marks_tasks_too(
    start_server: StartServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server(persist=True, options=["--appendfsync", "always"])
    queue = TaskQueue(server.url, namespace=namespace, user_id="alice")
    queue.enqueue(payload(1))
    with queue.lease(lease_seconds=4, heartbeat_seconds=0.1) as lease:
        (started,) = lease.dequeue()
        lease._lease._lease_us = 300_000
        server.kill()
        assert started.lease_lost.wait(10)
        server.start()
        wait_until(lambda: not started.lease_lost.is_set(), 10, "it is held again")
        lease.finish_task(started)
    queue.close()


@pytest.mark.parametrize("notice", [lambda lease: lease.heartbeat(), lambda lease: lease.exchange([], 1)])
def test_the_tasks_of_a_worker_that_was_declared_dead_are_lost_for_good(
    queue: TaskQueue, notice: Callable[[Lease], object]
) -> None:
    queue.enqueue(payload(1))
    lease = Lease(queue._store, ["default"], worker_id="w", lease_seconds=60)
    lease.register({})
    (task,) = lease.exchange([], 1).started
    lease._renewed_at -= 61
    assert lease.judge()
    assert lease.store.reclaim("w", "lost") == (1, 0)
    with pytest.raises(WorkerGone):
        notice(lease)
    assert lease.judge(vouched_at=time.monotonic())
    assert task.lease_lost.is_set()
