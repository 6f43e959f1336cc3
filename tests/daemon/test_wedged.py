"""Tasks that do not obey: what their worker leaves behind for its master, and what the master makes of it."""

import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fairqued import Reason, TaskCancelled, TaskFailed, TaskState
from fairqued.doctor.fsck import fsck
from fairqued.worker.vitals import Wish
from tests.support import process_tasks, strict_daemon, timeout_tasks
from tests.support.daemon import LATE, Daemon
from tests.support.servers import RedisServer
from tests.support.vital_worker import DRAIN_SECONDS, IMPORTS, VitalWorker
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

GRACE = 0.3
STRICT = (sys.executable, "-m", strict_daemon.__name__)


@pytest.fixture
def start(redis_server: RedisServer, namespace: str, tmp_path: Path) -> Any:
    """Make a worker of a master that is the test."""
    return partial(
        VitalWorker, redis_server.url, namespace, tmp_path, threads=2, heartbeat_seconds=0.1, hard_grace_seconds=GRACE
    )


def noted(directory: Path, name: str) -> None:
    wait_until((directory / name).exists, LATE, f"{name} is noted")


def test_a_task_that_hangs_costs_one_slot_until_the_worker_is_replaced(start: Any, tmp_path: Path) -> None:
    with start() as worker:
        queue = worker.queue
        failing = queue.enqueue(timeout_tasks.hang.task("failing"))
        noted(tmp_path, "failing")
        wait_until(lambda: worker.vitals.wish is Wish.WEDGED, LATE, "it wants to be replaced")
        assert [queue.enqueue(process_tasks.add.task(1, 2)).result(LATE) for _ in range(4)] == [3] * 4
        retried = queue.enqueue(timeout_tasks.hang_at_first.task("retried"))
        noted(tmp_path, "retried")
        wait_until(lambda: all(will.hard_at < time.monotonic() for will in worker.vitals.wills()), LATE, "both hang")
        (waiting,) = queue.enqueue_many([process_tasks.add.task(3, 4)])
        worker.terminate()
        began = time.monotonic()
        assert worker.wait() == 0
        assert time.monotonic() - began < DRAIN_SECONDS, "it does not wait for what hangs"
        assert failing.state() is TaskState.STARTED
        worker.reclaim()
    with pytest.raises(TaskFailed) as caught:
        failing.result(LATE)
    assert caught.value.reason == Reason.TIMEOUT
    assert "did not end within 0.3 s after that" in caught.value.message
    assert "time.sleep(LATE)" in caught.value.traceback
    assert queue.get(failing.task_id).attempts == 1
    assert waiting.state() is TaskState.QUEUED
    with start() as second:
        assert second.queue.handle(retried.task_id).result(LATE) == 2
        assert second.queue.handle(waiting.task_id).result(LATE) == 7
        second.terminate()
        assert second.wait() == 0
        second.reclaim()


def test_a_task_that_holds_the_interpreter_has_left_its_will(start: Any, tmp_path: Path) -> None:
    with start() as worker:
        handle = worker.queue.enqueue(timeout_tasks.hold_the_interpreter.task("began"))
        noted(tmp_path, "began")
        wait_until(lambda: _is_past(worker), LATE, "its hard deadline has passed")
        assert worker.vitals.wish is Wish.NONE, "it can say nothing any more"
        worker.kill()
        worker.reclaim("death")
        with pytest.raises(TaskFailed) as caught:
            handle.result(LATE)
        assert caught.value.reason == Reason.TIMEOUT


def _is_past(worker: VitalWorker) -> bool:
    return any(will.hard_at < time.monotonic() for will in worker.vitals.wills())


def test_what_disobeys_a_cancel_is_cancelled_with_its_process(start: Any, tmp_path: Path) -> None:
    with start() as worker:
        handle = worker.queue.enqueue(timeout_tasks.disobey.task("began"))
        noted(tmp_path, "began")
        assert handle.cancel()
        wait_until(lambda: worker.vitals.wish is Wish.WEDGED, LATE, "it wants to be replaced")
        worker.terminate()
        assert worker.wait() == 0
        worker.reclaim()
        with pytest.raises(TaskCancelled):
            handle.result(LATE)


def test_it_wants_to_be_replaced_after_so_many_tasks_and_goes_on(start: Any) -> None:
    with start(max_tasks=3) as worker:
        for number in range(5):
            assert worker.vitals.wish is (Wish.NONE if number < 3 else Wish.MAX_TASKS)
            assert worker.queue.enqueue(process_tasks.add.task(number, 1)).result(LATE) == number + 1
            if number == 2:
                wait_until(lambda: worker.vitals.wish is Wish.MAX_TASKS, LATE, "it wants to be replaced")
        worker.terminate()
        assert worker.wait() == 0
        worker.reclaim()


def test_it_ends_when_nothing_is_left(start: Any, redis_server: RedisServer, namespace: str) -> None:
    worker = start(threads=1, ends_when_empty=True)
    handles = worker.queue.enqueue_many(process_tasks.add.task(number, 1) for number in range(40))
    with worker:
        assert worker.wait() == 0
        assert [handle.result(LATE) for handle in handles] == list(range(1, 41))
        worker.reclaim()


def test_a_worker_that_ends_when_empty_ends_when_there_was_nothing(start: Any) -> None:
    with start(threads=1, ends_when_empty=True) as worker:
        assert worker.wait() == 0
        worker.reclaim()


# Real daemons


@pytest.fixture
def daemon(redis_server: RedisServer, namespace: str) -> Iterator[Daemon]:
    """One worker process with two threads, and little patience."""
    settings = {
        "imports": IMPORTS,
        "pools": [{"name": "main", "processes": 1, "threads": 2}],
        "worker": {"drain_seconds": 0.2},
    }
    daemon = Daemon(redis_server.url, namespace, settings, program=STRICT)
    yield daemon.start_and_wait()
    daemon.terminate()
    daemon.assert_clean_exit(LATE)
    findings = fsck(daemon.queue()._store.connection.client, namespace)
    daemon.remove()
    assert findings == []


def test_a_worker_is_replaced_around_a_task_that_hangs(daemon: Daemon) -> None:
    queue = daemon.queue()
    (before,) = daemon.worker_pids()
    failing, retried = (
        queue.enqueue(timeout_tasks.hang.task("failing")),
        queue.enqueue(timeout_tasks.hang_at_first.task("retried")),
    )
    with pytest.raises(TaskFailed) as caught:
        failing.result(LATE)
    assert caught.value.reason == Reason.TIMEOUT
    assert "time.sleep(LATE)" in caught.value.traceback
    assert retried.result(LATE) == 2
    wait_until(lambda: before not in daemon.worker_pids(), LATE, "the old worker is gone")
    assert len(daemon.worker_pids()) == 1


def test_a_worker_whose_interpreter_is_held_is_killed(daemon: Daemon) -> None:
    queue = daemon.queue()
    handle = queue.enqueue(timeout_tasks.hold_the_interpreter.task("began"))
    with pytest.raises(TaskFailed) as caught:
        handle.result(LATE)
    assert caught.value.reason == Reason.TIMEOUT
    assert queue.enqueue(process_tasks.add.task(1, 2)).result(LATE) == 3
