"""G5: a master that is killed takes its workers along, and its successor goes on where it ended."""

import os
import shutil
import signal

import psutil
import pytest

from fairqued import TaskQueue, TaskState
from tests.daemon.conftest import StartDaemon
from tests.support import faulty_daemon
from tests.support.daemon import LATE, is_alive, wait_until_gone
from tests.support.process_tasks import add, hold, spin
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

SLOW = """
import pathlib, time
pathlib.Path("booting").touch()
time.sleep(600)
"""


def test_workers_of_a_killed_master_go_away(make_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = make_daemon(
        pools=[
            {"name": "busy", "processes": 1, "threads": 2},
            {"name": "idle", "queues": ["nothing"], "processes": 1},
            {"name": "slow", "queues": ["slow"], "processes": 1, "handler": "slow:Handler"},
        ]
    )
    (daemon.directory / "slow.py").write_text(SLOW)
    queue.enqueue(hold.task("never"))
    queue.enqueue(spin.task(600))
    daemon.start()
    wait_until((daemon.directory / "booting").exists, LATE, "a worker boots")
    daemon.wait_for_message("busy/1 is ready")
    daemon.wait_for_message("idle/1 is ready")
    daemon.wait_for_starts(1)
    workers = daemon.worker_pids()
    assert len(workers) == 3
    daemon.kill()
    wait_until_gone(workers, 3)


def test_its_successor_resumes_their_tasks_before_anything_else(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon()
    held = queue.enqueue_many(hold.task("gate") for _ in range(2))
    daemon.wait_for_starts(2)
    waiting = queue.enqueue_many(hold.task("gate") for _ in range(3))
    daemon.kill()
    wait_until(lambda: not daemon.group(), LATE, "nothing of it is left")
    assert [handle.state() for handle in held] == [TaskState.STARTED] * 2
    daemon.program, env = faulty_daemon.program("reclaim_fails")  # which takes a second
    daemon.start(env=env)
    starts = daemon.wait_for_starts(4)
    assert {start.task_id for start in starts[2:4]} == {handle.task_id for handle in held}
    daemon.open_gate("gate")
    for handle in [*held, *waiting]:
        handle.result(LATE)
    assert [queue.get(handle.task_id).attempts for handle in held] == [2, 2]
    assert queue.stats().counters["finished"] == 5
    assert len(list((daemon.state_dir / "workers").iterdir())) == 1, "what was put back is forgotten"


def test_a_living_orphan_is_killed_before_its_tasks_are_put_back(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon()
    handle = queue.enqueue(hold.task("gate"))
    daemon.wait_for_starts(1)
    (orphan,) = daemon.worker_pids()
    os.kill(orphan, signal.SIGSTOP)  # so that it cannot notice
    daemon.kill()
    assert is_alive(orphan)
    daemon.start_and_wait()
    assert not is_alive(orphan)
    daemon.wait_for_starts(2)
    daemon.open_gate("gate")
    assert handle.result(LATE) in daemon.worker_pids()


def test_embedded_redis_survives_its_master_and_is_adopted(make_daemon: StartDaemon) -> None:
    daemon = make_daemon(redis_url="embedded").start_and_wait()
    queue = daemon.queue()
    held = queue.enqueue(hold.task("gate"))
    daemon.wait_for_starts(1)
    waiting = queue.enqueue_many(hold.task("gate") for _ in range(5))
    server = redis_process(daemon.group())
    daemon.kill()
    wait_until(lambda: daemon.group() == [server], LATE, "Redis alone is left")
    daemon.start_and_wait()
    daemon.open_gate("gate")
    for handle in [held, *waiting]:
        handle.result(LATE)
    assert is_alive(server)
    daemon.terminate()
    daemon.assert_clean_exit(5)
    assert not is_alive(server)
    queue.close()


def test_embedded_redis_that_dies_is_started_again(make_daemon: StartDaemon) -> None:
    daemon = make_daemon(redis_url="embedded").start_and_wait()
    queue = daemon.queue()
    handle = queue.enqueue(hold.task("gate"))
    daemon.wait_for_starts(1)
    workers = daemon.worker_pids()
    os.kill(redis_process(daemon.group()), signal.SIGKILL)
    daemon.wait_for_message("embedded Redis has died, and is started again")
    daemon.open_gate("gate")
    handle.result(LATE)
    assert queue.enqueue(add.task(1, 2)).result(LATE) == 3
    assert daemon.worker_pids() == workers
    queue.close()


def redis_process(pids: list[int]) -> int:
    (server,) = (
        pid for pid in pids if "redis-server" in psutil.Process(pid).name() or "valkey" in psutil.Process(pid).name()
    )
    return server


def test_a_copied_state_directory_leaves_the_originals_workers_alone(
    start_daemon: StartDaemon, make_daemon: StartDaemon, queue: TaskQueue
) -> None:
    original = start_daemon()
    handle = queue.enqueue(hold.task("gate"))
    original.wait_for_starts(1)
    copy = make_daemon(pools=[{"name": "main", "queues": ["other"], "processes": 1}])
    shutil.copytree(original.state_dir, copy.state_dir, ignore=shutil.ignore_patterns("*.sock"))
    copy.start_and_wait()
    assert copy.status()["instance"] != original.status()["instance"]
    original.open_gate("gate")
    assert handle.result(LATE) in original.worker_pids()
    assert queue.get(handle.task_id).attempts == 1
