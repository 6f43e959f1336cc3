"""A daemon that goes on while its configuration, its code and its workers are replaced."""

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fairqued import Task, TaskQueue, TaskState
from fairqued.record import Record
from tests.daemon.conftest import StartDaemon
from tests.support.daemon import LATE, Daemon, is_alive, wait_until_gone
from tests.support.process_tasks import hold, hold_gil, process_id, sleep, spin_in_c, take_memory, work
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

TWO = [{"name": "main", "processes": 2, "threads": 2}]
OLD, NEW = (
    "from fairqued import task\n@task\ndef version(): return 1\n",
    "from fairqued import task\n@task\ndef version(): return 2\n",
)


def ask(daemon: Daemon, **request: Any) -> dict[str, Any]:
    """What it answers on its control socket."""
    with socket.socket(socket.AF_UNIX) as talk:
        talk.settimeout(LATE)
        talk.connect(str(daemon.state_dir / "control.sock"))
        talk.sendall(json.dumps(request).encode() + b"\n")
        answer: dict[str, Any] = json.loads(talk.makefile("rb").readline())
        return answer


def rollout(daemon: Daemon) -> tuple[int, int]:
    told = daemon.status()["rollout"]
    return told["round"], told["left"]


def wait_for_round(daemon: Daemon, number: int) -> None:
    wait_until(lambda: rollout(daemon) == (number, 0), LATE, f"round {number} is over")


def phases(daemon: Daemon) -> list[str]:
    return [worker["phase"] for worker in daemon.status()["workers"]]


def titles(daemon: Daemon) -> list[str]:
    return sorted(worker["title"] for worker in daemon.status()["workers"])


@contextmanager
def watched_capacity(daemon: Daemon) -> Iterator[list[int]]:
    """How many workers were ready, looked at again and again during the block."""
    found: list[int] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            found.append(phases(daemon).count("ready"))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def call(name: str) -> Task[int]:
    return Task(func=name)


def test_a_reload_brings_new_code_and_never_goes_below_capacity(make_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = make_daemon(pools=TWO, imports=["tests.support.process_tasks", "deployed"])
    source = daemon.directory / "deployed.py"
    source.write_text(OLD)
    daemon.start_and_wait()
    old = daemon.worker_pids()
    held = queue.enqueue(hold.task("gate"))
    daemon.wait_for_starts(1)
    assert queue.enqueue(call("deployed:version")).result(LATE) == 1
    source.write_text(NEW + "# changed\n")
    with watched_capacity(daemon) as capacity:
        daemon.send(signal.SIGHUP)
        wait_for_round(daemon, 1)
    assert min(capacity) >= 2
    assert [queue.enqueue(call("deployed:version")).result(LATE) for _ in range(4)] == [2] * 4
    assert held.state() is TaskState.STARTED, "its worker drains"
    daemon.open_gate("gate")
    assert held.result(LATE) in old
    assert queue.get(held.task_id).attempts == 1
    wait_until_gone(old, LATE)
    daemon.terminate()
    daemon.assert_clean_exit(10 + 5)


def test_a_configuration_with_mistakes_changes_nothing(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(pools=TWO)
    workers = daemon.worker_pids()
    daemon.config.write_text(daemon.config.read_text() + "no_such_setting: 1\n")
    answer = ask(daemon, command="reload")
    assert "no_such_setting" in answer["error"]
    assert str(daemon.config) in answer["error"]
    daemon.send(signal.SIGHUP)
    daemon.wait_for_message("the old configuration goes on", 2)
    assert rollout(daemon) == (0, 0)
    assert daemon.worker_pids() == workers


def test_what_cannot_change_is_refused_by_name(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    daemon.write_config(namespace="another", redis={"url": "redis://127.0.0.1:1"})
    assert ask(daemon, command="reload") == {
        "error": "redis, namespace: cannot be changed by a reload; restart the daemon for that"
    }


def test_code_that_cannot_be_imported_leaves_the_old_workers_at_work(
    make_daemon: StartDaemon, queue: TaskQueue
) -> None:
    daemon = make_daemon(imports=["deployed"])
    source = daemon.directory / "deployed.py"
    source.write_text(OLD)
    daemon.start_and_wait()
    source.write_text("raise ValueError('a bug')")
    assert ask(daemon, command="reload") == {"ok": {"round": 1}}
    daemon.wait_for_message("the old one goes on meanwhile")
    assert "a bug" in daemon.status()["rollout"]["trouble"]
    assert queue.enqueue(call("deployed:version")).result(LATE) == 1
    source.write_text(NEW)
    assert ask(daemon, command="reload") == {"ok": {"round": 2}}, "it does not wait for the round that does not get on"
    wait_for_round(daemon, 2)
    assert queue.enqueue(call("deployed:version")).result(LATE) == 2


def test_a_reload_does_not_wait_for_workers_that_hang_in_their_boot(make_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = make_daemon(imports=["deployed"], worker={"boot_timeout_seconds": 600})
    source = daemon.directory / "deployed.py"
    source.write_text("import pathlib, time\npathlib.Path('hangs').touch()\ntime.sleep(600)")
    daemon.start()
    wait_until((daemon.directory / "hangs").exists, LATE, "it hangs")
    source.write_text(OLD)
    daemon.send(signal.SIGHUP)
    daemon.wait_until_ready()
    assert queue.enqueue(call("deployed:version")).result(LATE) == 1


def test_what_another_daemon_has_applied_stays_unless_there_is_something_new(
    start_daemon: StartDaemon, queue: TaskQueue
) -> None:
    """Two daemons with different settings for the namespace do not take turns at each reload."""
    daemon = start_daemon(users={"alice": {"weight": 2}})
    store = queue._store
    store.connection.client.hset(store.keys.meta, "digest", "of another daemon")
    ask(daemon, command="reload")
    wait_for_round(daemon, 1)
    assert store.connection.client.hget(store.keys.meta, "digest") == b"of another daemon"
    daemon.write_config(users={"alice": {"weight": 3}})
    ask(daemon, command="reload")
    wait_until(lambda: store.connection.client.hget(store.keys.meta, "digest") != b"of another daemon", LATE, "applied")


def test_a_pool_with_a_new_name_leaves_no_gap(make_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = make_daemon(imports=["deployed"], pools=[{"name": "old", "processes": 1}])
    source = daemon.directory / "deployed.py"
    source.write_text(OLD)
    daemon.start_and_wait()
    source.write_text("raise ValueError('a bug')")
    daemon.settings = {**daemon.settings, "pools": [{"name": "new", "processes": 1}]}
    daemon.write_config()
    assert ask(daemon, command="reload") == {"ok": {"round": 1}}
    daemon.wait_for_message("worker new/1 cannot boot")
    assert queue.enqueue(call("deployed:version")).result(LATE) == 1
    source.write_text(NEW)
    wait_for_round(daemon, 1)
    wait_until(lambda: titles(daemon) == ["new/1"], LATE, "the old one has gone")
    assert queue.enqueue(call("deployed:version")).result(LATE) == 2


def test_counts_levels_and_limits_change_without_a_restart(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon(pools=TWO, users={"alice": {"weight": 2}})
    pid = daemon.pid
    daemon.write_config(
        pools=[{"name": "main", "processes": 1, "threads": 1}, {"name": "mail", "queues": ["mail"], "processes": 1}],
        logging={"level": "debug"}, users={"alice": {"weight": 1, "max_running": 1}},
    )  # fmt: skip
    daemon.send(signal.SIGHUP)
    wait_for_round(daemon, 1)
    wait_until(lambda: titles(daemon) == ["mail/1", "main/1"], LATE, "one worker of each pool is left")
    queue.enqueue(work.task(0), queue="mail").result(LATE)
    first = queue.enqueue(hold.task("gate"))
    second = queue.enqueue(hold.task("gate"), queue="mail")
    daemon.wait_for_starts(2)
    wait_until(lambda: queue.stats().users, LATE, "alice waits at her limit")
    assert sorted([first.state(), second.state()]) == [TaskState.QUEUED, TaskState.STARTED]
    daemon.open_gate("gate")
    assert [first.result(LATE), second.result(LATE)]
    assert daemon.pid == pid
    assert daemon.is_running


def test_a_hundred_hups_make_few_rounds_and_lose_nothing(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon(pools=TWO)
    handles = []
    for _ in range(100):
        daemon.send(signal.SIGHUP)
        handles.append(queue.enqueue(work.task(0.02)))
    for handle in handles:
        handle.result(LATE)
    wait_until(lambda: rollout(daemon)[1] == 0 and daemon.messages("all workers are replaced"), LATE, "it is over")
    assert 1 <= rollout(daemon)[0] <= 100
    executions = daemon.ledger.by_task()
    assert [len(executions[handle.task_id]) for handle in handles] == [1] * 100
    wait_until(lambda: phases(daemon) == ["ready", "ready"], LATE, "the old ones have gone")


def test_hups_in_the_middle_of_a_round_make_one_more(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(pools=[{"name": "main", "processes": 4, "threads": 1}])
    assert ask(daemon, command="reload") == {"ok": {"round": 1}}
    assert rollout(daemon)[1] > 0
    assert ask(daemon, command="reload") == {"ok": {"round": 2}}
    for _ in range(5):
        daemon.send(signal.SIGHUP)
    daemon.wait_for_message("all workers are replaced", 2)
    wait_for_round(daemon, 2)


def test_scaling_by_request(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon()
    assert ask(daemon, command="scale", pool="main", processes=3) == {"ok": {"pool": "main", "processes": 3}}
    wait_until(lambda: phases(daemon) == ["ready"] * 3, LATE, "there are three")
    held = queue.enqueue_many(hold.task("gate") for _ in range(6))
    daemon.wait_for_starts(6)
    assert ask(daemon, command="scale", pool="main", processes=1) == {"ok": {"pool": "main", "processes": 1}}
    daemon.open_gate("gate")
    assert len({handle.result(LATE) for handle in held}) == 3, "all ended where they began"
    wait_until(lambda: phases(daemon) == ["ready"], LATE, "one is left")
    assert "there is no pool 'gpu'; there are main" in ask(daemon, command="scale", pool="gpu", processes=1)["error"]
    for bad in (0, -1, "2", None, 10**9):
        assert "expected a number from 1" in ask(daemon, command="scale", pool="main", processes=bad)["error"]


def test_draining_by_request(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon(worker={"drain_seconds": 20})
    held = queue.enqueue(hold.task("gate"))
    daemon.wait_for_starts(1)
    assert ask(daemon, command="drain") == {"ok": {"drain_seconds": 20}}
    assert "stopping" in ask(daemon, command="reload")["error"]
    assert "stopping" in ask(daemon, command="scale", pool="main", processes=2)["error"]
    daemon.open_gate("gate")
    daemon.assert_clean_exit(5)
    assert held.state() is TaskState.FINISHED


def test_workers_are_recycled_after_max_tasks_with_the_next_one_ready_first(
    start_daemon: StartDaemon, queue: TaskQueue
) -> None:
    daemon = start_daemon(pools=[{"name": "main", "processes": 1, "threads": 2, "max_tasks": 20}])
    with watched_capacity(daemon) as capacity:
        handles = queue.enqueue_many(work.task(0.02) for _ in range(150))
        for handle in handles:
            handle.result(LATE)
        daemon.wait_for_message("max_tasks (20)", 2)
    assert min(capacity) >= 1
    executions = daemon.ledger.by_task()
    assert [len(executions[handle.task_id]) for handle in handles] == [1] * 150
    assert len({each.pid for starts in [daemon.starts()] for each in starts}) >= 2


def test_a_worker_that_takes_too_much_memory_is_replaced(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon(pools=[{"name": "main", "processes": 1, "threads": 1, "max_rss_mb": 150}])
    (old,) = daemon.worker_pids()
    queue.enqueue(take_memory.task(200)).result(LATE)
    daemon.wait_for_message("more than pools[main].max_rss_mb (150)")
    wait_until_gone([old], LATE)
    assert queue.enqueue(process_id.task()).result(LATE) != old


def test_a_worker_without_any_sign_of_life_is_killed(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon(
        pools=[{"name": "main", "processes": 1, "threads": 2}],
        worker={"wedged_seconds": 3, "lease_seconds": 30, "heartbeat_seconds": 0.5},
    )
    (old,) = daemon.worker_pids()
    stuck = queue.enqueue(hold_gil.task(600))
    daemon.wait_for_message("gave no sign of life for worker.wedged_seconds (3)")
    wait_until(lambda: not is_alive(old), LATE, "it is killed")
    wait_until(lambda: suspicion(queue, stuck.task_id) >= 1, LATE, "the task is under suspicion")
    stuck.cancel()
    daemon.end()


def suspicion(queue: TaskQueue, task_id: str) -> int:
    record: Record | None = queue._store.read(task_id)
    assert record is not None
    return record.suspicion


def test_a_busy_worker_is_not_wedged(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    """Neither one that computes and lets no heartbeat through, nor one that sleeps and beats."""
    daemon = start_daemon(
        pools=[{"name": "main", "processes": 2, "threads": 1}],
        worker={"wedged_seconds": 1.5, "lease_seconds": 30, "heartbeat_seconds": 0.3},
    )
    began = time.monotonic()
    for handle in [queue.enqueue(spin_in_c.task(4)), queue.enqueue(sleep.task(4))]:
        handle.result(LATE)
        assert queue.get(handle.task_id).attempts == 1
    assert time.monotonic() - began > 3
    assert not daemon.messages("no sign of life")
