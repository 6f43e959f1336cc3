"""Forking while threads of the master are busy: every child comes up, and nothing of the master leaks into it."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from fairqued import TaskQueue
from tests.daemon.conftest import StartDaemon
from tests.support.daemon import CHECKOUT, LATE, Daemon, group_of, title
from tests.support.process_tasks import add, descriptors, end_a_process_of_its_own
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

RESPAWNS, POSTS = 200, 8


def test_two_hundred_respawns_while_the_masters_threads_are_busy(make_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = make_daemon(pools=[{"name": "main", "processes": POSTS, "threads": 1}])
    daemon.program = [sys.executable, "-m", "tests.support.hasty_daemon"]
    daemon.start(env={"PYTHONPATH": str(CHECKOUT)}).wait_until_ready()
    master = psutil.Process(daemon.pid)
    descriptors, threads = master.num_fds(), master.num_threads()
    with asking(daemon):
        for _ in range(RESPAWNS // POSTS):
            victims = ready_workers(daemon)
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: len(ready_workers(daemon) - victims) == POSTS, LATE, "all are replaced")  # noqa: B023
    assert not daemon.messages("cannot boot"), "no child stalled"
    assert len(daemon.messages("was sent SIGKILL")) == RESPAWNS
    assert master.num_fds() < descriptors + 10, "nothing leaked: a connection comes and goes, a respawn leaves none"
    assert master.num_threads() <= threads
    assert queue.enqueue(add.task(1, 2)).result(LATE) == 3
    wait_until(lambda: len(list((daemon.state_dir / "workers").iterdir())) == POSTS, LATE, "the dead are forgotten")


def ready_workers(daemon: Daemon) -> set[int]:
    """The workers that the master takes for ready."""
    return {worker["pid"] for worker in daemon.status()["workers"] if worker["phase"] == "ready"}


@contextmanager
def asking(daemon: Daemon) -> Iterator[None]:
    """Ask for the daemon's status again and again, from a few threads, during the block."""
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.002):
            daemon.status()

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_a_worker_inherits_no_descriptor(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon(pools=[{"name": "main", "processes": 2, "threads": 1}])
    masters = {str(fd.readlink()) for fd in Path(f"/proc/{daemon.pid}/fd").iterdir()}
    found = queue.enqueue(descriptors.task()).result(LATE)
    shared = {target for fd, target in found.items() if int(fd) > 2 and target in masters}
    assert {target.partition(":")[0] for target in shared} <= {"pipe", "/dev/null"}
    assert len(shared - {"/dev/null"}) == 1, "the pipe by which it learns of its master's death"
    own = {target for fd, target in found.items() if int(fd) > 2 and target not in masters}
    assert all(target.startswith(("socket:", str(daemon.state_dir / "workers"))) for target in own), own


def test_titles_and_process_group(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(
        pools=[{"name": "main", "processes": 2, "threads": 1}, {"name": "gpu", "queues": ["gpu"], "processes": 1}]
    )
    assert title(daemon.pid) == "fairqued: master"
    assert [title(pid) for pid in daemon.worker_pids()] == [
        "fairqued: worker main/1",
        "fairqued: worker main/2",
        "fairqued: worker gpu/1",
    ]
    assert {group_of(pid) for pid in daemon.worker_pids()} == {daemon.pid}


def test_a_task_can_end_the_processes_that_it_forks(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    """They inherit the handlers of the worker, which is no business of theirs."""
    daemon = start_daemon()
    assert queue.enqueue(end_a_process_of_its_own.task()).result(LATE) == -signal.SIGTERM
    daemon.terminate()
    daemon.assert_clean_exit(10 + 5)
