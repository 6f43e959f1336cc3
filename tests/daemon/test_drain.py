"""G7: the signals that stop a daemon, in each of its states."""

import os
import random
import signal
import time
from collections.abc import Callable
from itertools import pairwise

import pytest

from fairqued import TaskQueue, TaskState
from tests.daemon.conftest import StartDaemon
from tests.support.daemon import LATE, Daemon
from tests.support.process_tasks import hold, noop
from tests.support.servers import RedisServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

QUICK = 5
"""More than a machine needs that does several things at once; with nothing to wait for it is a tenth of a second."""
SHORT_DRAIN = {"drain_seconds": 2}


def test_what_ends_in_time_is_finished_and_the_rest_handed_back(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon(pools=[{"name": "main", "processes": 2, "threads": 2}], worker=SHORT_DRAIN)
    ending = queue.enqueue_many(hold.task("soon") for _ in range(2))
    endless = queue.enqueue_many(hold.task("later") for _ in range(2))
    daemon.wait_for_starts(4)
    waiting = queue.enqueue(hold.task("soon"))
    daemon.terminate()
    daemon.wait_for_message("stopping")
    daemon.open_gate("soon")
    daemon.assert_clean_exit(2 + 5)
    assert [handle.state() for handle in ending] == [TaskState.FINISHED] * 2
    assert [handle.state() for handle in [*endless, waiting]] == [TaskState.QUEUED] * 3
    assert [queue.get(handle.task_id).attempts for handle in [*endless, waiting]] == [0, 0, 0]
    for handle in endless:
        assert daemon.messages(handle.task_id)
    daemon.start_and_wait()
    daemon.open_gate("later")
    for handle in [*endless, waiting]:
        handle.result(LATE)
        assert queue.get(handle.task_id).attempts == 1
    executions = daemon.ledger.by_task()
    assert [len(executions[handle.task_id]) for handle in [*ending, waiting]] == [1] * 3
    assert [len(executions[handle.task_id]) for handle in endless] == [2] * 2, "they were interrupted, and ran again"
    assert queue.stats().counters["finished"] == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_an_idle_daemon_stops_at_once(start_daemon: StartDaemon, number: signal.Signals) -> None:
    daemon = start_daemon(pools=[{"name": "main", "processes": 2, "threads": 2}])
    daemon.send(number)
    daemon.assert_clean_exit(1.5)


@pytest.mark.parametrize(
    "signals", [[signal.SIGTERM, signal.SIGTERM], [signal.SIGINT, signal.SIGINT], [signal.SIGQUIT]], ids=str
)
def test_a_second_signal_and_quit_do_not_wait_for_tasks(
    start_daemon: StartDaemon, queue: TaskQueue, signals: list[signal.Signals]
) -> None:
    daemon = start_daemon(worker={"drain_seconds": 600})
    handles = queue.enqueue_many(hold.task("never") for _ in range(2))
    daemon.wait_for_starts(2)
    for times, number in enumerate(signals, start=1):
        daemon.send(number)
        daemon.wait_for_message("stopping", times)
    daemon.assert_clean_exit(QUICK)
    assert [handle.state() for handle in handles] == [TaskState.QUEUED] * 2
    assert [queue.get(handle.task_id).attempts for handle in handles] == [0, 0]


def test_a_drain_shorter_than_a_second_is_a_drain(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon(worker={"drain_seconds": 0.5})
    handles = queue.enqueue_many(hold.task("soon") for _ in range(2))
    daemon.wait_for_starts(2)
    daemon.terminate()
    daemon.wait_for_message("stopping")
    daemon.open_gate("soon")
    daemon.assert_clean_exit(QUICK)
    assert [handle.state() for handle in handles] == [TaskState.FINISHED] * 2


def test_a_stop_while_workers_boot(make_daemon: StartDaemon) -> None:
    daemon = make_daemon(imports=["slow"])
    (daemon.directory / "slow.py").write_text("import pathlib, time\npathlib.Path('booting').touch()\ntime.sleep(600)")
    daemon.start()
    wait_until((daemon.directory / "booting").exists, LATE, "the worker boots")
    daemon.terminate()
    daemon.assert_clean_exit(QUICK)


def test_a_stop_while_it_waits_for_redis(make_daemon: StartDaemon) -> None:
    daemon = make_daemon(redis_url="unix:///nowhere/redis.sock").start()
    daemon.wait_for_message("trying for")
    daemon.terminate()
    daemon.assert_clean_exit(QUICK)
    assert daemon.messages("told to stop before it was up")


def test_a_stop_while_the_embedded_redis_has_much_to_load(make_daemon: StartDaemon) -> None:
    daemon = make_daemon(redis_url="embedded")
    server = daemon.directory / "server"
    server.write_text("#!/bin/sh\ntouch loading\nexec sleep 600\n")
    server.chmod(0o755)
    daemon.settings = {"redis": {"server_binary": str(server)}}
    daemon.start()
    wait_until((daemon.directory / "loading").exists, LATE, "it loads")
    daemon.terminate()
    daemon.assert_clean_exit(QUICK)


def test_a_stop_at_any_moment_of_the_start(make_daemon: StartDaemon) -> None:
    daemon = make_daemon(redis_url="embedded")
    for _ in range(4):
        daemon.start()
        lock = daemon.state_dir / "master.lock"
        wait_until(lock.exists, LATE, "it is on its way")
        time.sleep(random.uniform(0, 0.4))  # to hit a moment that nothing announces
        daemon.send(random.choice([signal.SIGTERM, signal.SIGINT]))
        daemon.assert_clean_exit(QUICK)
        lock.unlink()


def kill(server: RedisServer) -> None:
    server.kill()


def freeze(server: RedisServer) -> None:
    server.freeze()


@pytest.mark.parametrize("take_away", [kill, freeze])
def test_without_redis_it_says_what_was_not_delivered_and_the_next_start_repeats_it(
    make_daemon: StartDaemon,
    start_server: Callable[..., RedisServer],
    namespace: str,
    take_away: Callable[[RedisServer], None],
) -> None:
    server = start_server(persist=True, options=["--appendfsync", "always"])
    daemon = make_daemon(redis_url=server.url, worker={"drain_seconds": 3}).start_and_wait()
    queue = TaskQueue(server.url, namespace=namespace, user_id="alice")
    ended, endless = queue.enqueue(hold.task("soon")), queue.enqueue(hold.task("later"))
    daemon.wait_for_starts(2)
    take_away(server)
    daemon.open_gate("soon")
    wait_until(lambda: len(daemon.ledger.read()) == 1, LATE, "one task ended")
    daemon.terminate()
    daemon.assert_clean_exit(3 + 5)
    assert daemon.messages(f"could not be completed, and will run again: {ended.task_id}")
    assert daemon.messages(f"did not end in time, and are handed back: {endless.task_id}")
    assert daemon.messages("the next start puts back the tasks of")
    server.restart()
    daemon.start_and_wait()
    daemon.open_gate("later")
    for handle in (ended, endless):
        handle.result(LATE)
        assert queue.get(handle.task_id).attempts == 1, "a drain counts no attempt"
    assert queue.stats().counters["finished"] == 2
    assert_never_at_once(daemon)
    queue.close()


def test_a_frozen_embedded_redis_does_not_hold_up_the_end(make_daemon: StartDaemon) -> None:
    daemon = make_daemon(redis_url="embedded", worker={"drain_seconds": 1}).start_and_wait()
    (server,) = (each for each in daemon.children() if each.pid not in daemon.worker_pids())
    queue = daemon.queue()
    queue.enqueue(hold.task("never"))
    daemon.wait_for_starts(1)
    server.suspend()
    daemon.terminate()
    daemon.assert_clean_exit(1 + 5)
    queue.close()


def assert_never_at_once(daemon: Daemon) -> None:
    """No task ran in two processes at the same time."""
    for executions in daemon.ledger.by_task().values():
        assert all(earlier.end <= later.start for earlier, later in pairwise(executions))


def test_a_hundred_signals_are_one_stop(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon()
    for _ in range(50):
        os.kill(daemon.pid, signal.SIGHUP)
        os.kill(daemon.pid, signal.SIGCHLD)
    queue.enqueue(noop.task()).result(LATE)
    daemon.terminate()
    daemon.assert_clean_exit(QUICK)
