"""A worker whose lease nobody can renew flags its tasks and fetches nothing, until somebody can after all."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fairqued import TaskQueue
from tests.support import process_tasks, timeout_tasks
from tests.support.daemon import LATE
from tests.support.servers import RedisServer
from tests.support.vital_worker import VitalWorker
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

LEASE_SECONDS = 0.5


@pytest.fixture
def server(start_server: Callable[..., RedisServer]) -> RedisServer:
    """One that keeps what it acknowledged, to be taken away."""
    return start_server(persist=True, options=["--appendfsync", "always"])


@pytest.fixture
def worker(server: RedisServer, namespace: str, tmp_path: Path) -> Iterator[VitalWorker]:
    with VitalWorker(
        server.url, namespace, tmp_path, threads=2, heartbeat_seconds=0.05, lease_seconds=LEASE_SECONDS
    ) as worker:
        yield worker


def noted(directory: Path, name: str) -> None:
    wait_until((directory / name).exists, LATE, f"{name} is noted")


def begin(worker: VitalWorker, directory: Path) -> str:
    """Run a task that looks out: its id."""
    handle = worker.queue.enqueue(timeout_tasks.look_out_for_the_lease.task("lease"))
    noted(directory, "lease.1")
    return handle.task_id


def end(queue: TaskQueue, directory: Path, task_id: str) -> list[bool]:
    """What the task saw."""
    (directory / "enough").touch()
    said: list[bool] = queue.handle(task_id).result(LATE)
    return said


def test_the_flag_goes_up_when_the_lease_is_over_and_down_when_it_is_renewed(
    worker: VitalWorker, server: RedisServer, tmp_path: Path
) -> None:
    task_id = begin(worker, tmp_path)
    server.kill()
    beats = worker.vitals.beats
    noted(tmp_path, "lease.2")
    assert worker.vitals.beats > beats, "it beats whether or not Redis answers"
    server.start()
    noted(tmp_path, "lease.3")
    assert worker.queue.enqueue(process_tasks.add.task(1, 2)).result(LATE) == 3, "it fetches again"
    assert end(worker.queue, tmp_path, task_id) == [False, True, False]


def test_the_word_of_the_master_counts_too(worker: VitalWorker, server: RedisServer, tmp_path: Path) -> None:
    task_id = begin(worker, tmp_path)
    server.kill()
    until = time.monotonic() + 3 * LEASE_SECONDS

    def vouch() -> bool:
        worker.vitals.note_renewal()
        return time.monotonic() > until

    wait_until(vouch, LATE, "three leases are over")
    assert not (tmp_path / "lease.2").exists()
    noted(tmp_path, "lease.2")
    worker.vitals.note_renewal()
    noted(tmp_path, "lease.3")
    server.start()
    assert end(worker.queue, tmp_path, task_id)[:3] == [False, True, False]
