"""G2, G5: whoever dies, at whatever point, nothing is lost, nothing is completed twice, each repetition has a reason.

Each test lets one process kill itself at one point, then compares what was executed with what was completed.
"""

import os
import signal
from collections import Counter

import pytest

from fairqued import TaskHandle, TaskQueue
from fairqued.crash_points import CRASH_POINTS, VARIABLE
from tests.daemon.conftest import StartDaemon
from tests.support.daemon import LATE, Daemon
from tests.support.ledger import judge
from tests.support.process_tasks import hold

pytestmark = pytest.mark.process

TASKS = 6
NONE, SOME, ANY = "none", "some", "any"

WORKERS_POINTS = {
    "booting": ("booting", NONE),
    "registered": ("registered", NONE),
    "before_heartbeat": ("before_heartbeat@1", ANY),
    "after_heartbeat": ("after_heartbeat@2", SOME),
    "after_pop": ("after_pop", NONE),
    "in_task": ("in_task@2", ANY),
    "before_finish": ("before_finish", SOME),
    "after_finish": ("after_finish@2", ANY),
}
"""For each point: when to die there, and whether tasks have begun by then that begin again."""

MASTERS_POINTS = {
    "before_fork": "before_fork@3",
    "after_fork": "after_fork@3",
    "after_death": "after_death",
    "in_reclaim": "in_reclaim",
}
"""The third fork is that of the first replacement."""


def test_every_point_is_attacked() -> None:
    assert WORKERS_POINTS.keys() | MASTERS_POINTS.keys() == CRASH_POINTS.keys()


def assert_sound(daemon: Daemon, queue: TaskQueue, handles: list[TaskHandle[int]]) -> Counter[str]:
    """Every task was completed once; how often each was begun more often than that, each time for a counted reason."""
    ids = [handle.task_id for handle in handles]
    for handle in handles:
        handle.result(LATE)
    verdict = judge(daemon.ledger.read(), Counter(ids), accepted=ids)
    assert verdict.clean, verdict
    assert not verdict.overlapping, "nothing ran twice at once"
    begun = Counter(start.task_id for start in daemon.starts())
    attempts = Counter({task_id: queue.get(task_id).attempts for task_id in ids})
    assert begun <= attempts
    counters = Counter(queue.stats().counters)
    assert counters["finished"] == len(ids)
    assert counters["reclaimed"] == (attempts - Counter(ids)).total(), "each attempt but the last ended by a death"
    return begun - Counter(ids)


@pytest.mark.parametrize("point", WORKERS_POINTS)
def test_a_worker_dies(make_daemon: StartDaemon, queue: TaskQueue, point: str) -> None:
    asked, begun_twice = WORKERS_POINTS[point]
    daemon = make_daemon(worker={"heartbeat_seconds": 0.3, "drain_seconds": 10})
    handles = queue.enqueue_many(hold.task("gate") for _ in range(TASKS))
    if point != "after_heartbeat":
        daemon.open_gate("gate")
    daemon.start(env={VARIABLE: asked})
    daemon.wait_for_message("main/1 was sent SIGKILL" if point not in ("booting", "registered") else "was sent SIGKILL")
    daemon.open_gate("gate")
    again = assert_sound(daemon, queue, handles)
    assert len(daemon.messages("was sent SIGKILL")) == 1
    assert begun_twice == ANY or bool(again) == (begun_twice == SOME), again
    assert again.total() <= 2, "a worker with two slots"


@pytest.mark.parametrize("point", MASTERS_POINTS)
def test_a_master_dies_and_is_started_again(make_daemon: StartDaemon, queue: TaskQueue, point: str) -> None:
    daemon = make_daemon(pools=[{"name": "main", "processes": 2, "threads": 2}])
    handles = queue.enqueue_many(hold.task("gate") for _ in range(TASKS))
    daemon.start(env={VARIABLE: MASTERS_POINTS[point]}).wait_until_ready()
    daemon.wait_for_starts(4)
    os.kill(daemon.worker_pids()[0], signal.SIGKILL)
    assert daemon.wait() == -signal.SIGKILL
    daemon.start_and_wait()
    daemon.wait_for_starts(8)
    daemon.open_gate("gate")
    assert assert_sound(daemon, queue, handles).total() == 4, "what the two workers ran"
