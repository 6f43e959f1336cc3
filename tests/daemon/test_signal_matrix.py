"""Every signal in every state of a daemon: those that stop it stop it in good order, the others never do."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from fairqued import TaskState
from fairqued.connection import make_client
from fairqued.doctor.fsck import fsck
from tests.daemon.conftest import StartDaemon
from tests.support.daemon import LATE, Daemon
from tests.support.process_tasks import hold
from tests.support.servers import RedisServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

DRAIN_SECONDS = 3
STOPS: Mapping[str, signal.Signals] = {
    "TERM": signal.SIGTERM,
    "TERM twice": signal.SIGTERM,
    "INT": signal.SIGINT,
    "QUIT": signal.SIGQUIT,
}
ORDERS = ["HUP", "TTIN", "TTOU", "USR1", "USR2"]
EVERY = [*STOPS, *ORDERS]
SLOW_MODULE = """
import os, time
while not os.path.exists(os.environ["FAIRQUED_TEST_DIR"] + "/boot"):
    time.sleep(0.01)
"""


class Fleet(dict[str, Daemon]):
    """A daemon for each signal, each on a namespace of its own."""

    def __init__(self, server: RedisServer, namespace: str, **settings: object) -> None:
        for number, name in enumerate(EVERY):
            pools = [{"name": "main", "processes": 2, "threads": 1}]
            self[name] = Daemon(
                server.url,
                f"{namespace}-{number}",
                {"pools": pools, "worker": {"drain_seconds": DRAIN_SECONDS}, **settings},
            )

    def send(self) -> None:
        """Let each have its signal; a second one comes when the first was understood."""
        for name, daemon in self.items():
            daemon.send(STOPS[name] if name in STOPS else signal.Signals[f"SIG{name}"])
        twice = self["TERM twice"]
        wait_until(lambda: not twice.is_running or twice.messages("stop"), LATE, "the first one is understood")
        if twice.is_running:
            twice.terminate()

    def start_and_wait(self) -> None:
        for daemon in self.values():
            daemon.start()
        for daemon in self.values():
            daemon.wait_until_ready()

    def hold_a_task_each(self) -> None:
        """Let each have one task that runs until its gate is opened."""
        for daemon in self.values():
            with closing(daemon.queue()) as queue:
                queue.enqueue(hold.task("gate"), task_id="held")
        for daemon in self.values():
            daemon.wait_for_starts(1)

    def state_of_held(self, name: str) -> TaskState:
        with closing(self[name].queue()) as queue:
            return queue.get("held").state

    def has_finished(self, name: str) -> bool:
        return self.state_of_held(name) is TaskState.FINISHED

    def assert_orders_did_no_harm(self) -> None:
        for name in ORDERS:
            assert self[name].is_running, f"{name}: {self[name].last_words()}"


@contextmanager
def fleet_of(server: RedisServer, namespace: str, **settings: object) -> Iterator[Fleet]:
    fleet = Fleet(server, namespace, **settings)
    try:
        yield fleet
        if server.running:
            with make_client(server.url, LATE) as client:
                for daemon in fleet.values():
                    daemon.end()
                    assert fsck(client, daemon.namespace) == []
    finally:
        for daemon in fleet.values():
            daemon.remove()


MakeFleet = Callable[..., Fleet]


@pytest.fixture
def make_fleet(redis_server: RedisServer, namespace: str) -> Iterator[MakeFleet]:
    with ExitStack() as stack:
        yield lambda server=redis_server, **settings: stack.enter_context(fleet_of(server, namespace, **settings))


def workers(daemon: Daemon) -> int:
    """How many workers it wants: those that leave do not count."""
    return sum(worker["phase"] != "stopping" for worker in daemon.status().get("workers", []))


def assert_orders_are_obeyed(fleet: Fleet) -> None:
    wait_until(lambda: workers(fleet["TTIN"]) == 3, LATE, "one worker more")
    wait_until(lambda: workers(fleet["TTOU"]) == 1, LATE, "one worker less")
    wait_until(lambda: rollout_is_over(fleet["HUP"]), LATE, "all workers are replaced")
    fleet["USR1"].wait_for_message("SIGUSR1")
    fleet["USR2"].wait_for_message("stacks of the master")
    fleet.assert_orders_did_no_harm()


def threads_that_take(number: signal.Signals, pid: int) -> list[str]:
    """The threads of a process that do not block a signal, by name."""
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        about = dict(line.split(":", 1) for line in (thread / "status").read_text().splitlines())
        if not int(about["SigBlk"], 16) & 1 << (number - 1):
            found.append(thread.name)
    return found


def test_no_signal_reaches_another_thread(start_daemon: StartDaemon) -> None:
    """It would kill a daemon that ends in good order, once the interpreter has taken the handlers away."""
    daemon = start_daemon()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        assert threads_that_take(number, daemon.pid) == [str(daemon.pid)]


def rollout_is_over(daemon: Daemon) -> bool:
    return daemon.status().get("rollout") == {"round": 1, "left": 0, "trouble": ""}


def test_idle(make_fleet: MakeFleet) -> None:
    fleet = make_fleet()
    fleet.start_and_wait()
    fleet.send()
    for name in STOPS:
        fleet[name].assert_clean_exit(DRAIN_SECONDS + 5)
    assert_orders_are_obeyed(fleet)
    fleet["USR2"].wait_for_message("stacks of this worker", 2)
    for name in ORDERS:
        fleet[name].terminate()
    for name in ORDERS:
        fleet[name].assert_clean_exit(DRAIN_SECONDS + 5)


def test_busy(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(worker={"drain_seconds": 60})
    fleet.start_and_wait()
    fleet.hold_a_task_each()
    fleet.send()
    for name in ("TERM twice", "QUIT"):
        fleet[name].assert_clean_exit(10)
        assert fleet.state_of_held(name) is TaskState.QUEUED
    for name in ("TERM", "INT"):
        fleet[name].wait_for_message("stopping")
        fleet[name].open_gate("gate")
        fleet[name].assert_clean_exit(10)
        assert fleet.state_of_held(name) is TaskState.FINISHED
    for name in ORDERS:
        fleet[name].open_gate("gate")
    assert_orders_are_obeyed(fleet)
    for name in ORDERS:
        wait_until(partial(fleet.has_finished, name), LATE, f"{name}: the task ends")
        assert len(fleet[name].starts()) == 1, f"{name}: it ran once"


def test_draining(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(worker={"drain_seconds": 60})
    fleet.start_and_wait()
    fleet.hold_a_task_each()
    for daemon in fleet.values():
        daemon.terminate()
    for daemon in fleet.values():
        daemon.wait_for_message("stopping")
    fleet.send()
    for name in STOPS:
        fleet[name].assert_clean_exit(5)
        assert fleet.state_of_held(name) is TaskState.QUEUED, "a second signal is a quick stop"
    for name in ("HUP", "TTIN", "TTOU", "USR1"):
        fleet[name].wait_for_message(f"SIG{name} has no effect: fairqued is stopping")
    fleet["USR2"].wait_for_message("stacks of the master")
    for name in ORDERS:
        assert fleet[name].is_running
        fleet[name].open_gate("gate")
    for name in ORDERS:
        fleet[name].assert_clean_exit(10)
        assert fleet.state_of_held(name) is TaskState.FINISHED


def test_booting(make_fleet: MakeFleet) -> None:
    """The workers are not ready yet."""
    fleet = make_fleet(imports=["slow", "tests.support.process_tasks"])
    for daemon in fleet.values():
        (daemon.directory / "slow.py").write_text(SLOW_MODULE)
        daemon.start()
    for daemon in fleet.values():
        wait_until(partial(workers_boot, daemon), LATE, "its workers boot")
    fleet.send()
    for name in STOPS:
        fleet[name].assert_clean_exit(DRAIN_SECONDS + 5)
    for name in ORDERS:
        fleet[name].open_gate("boot")
    assert_orders_are_obeyed(fleet)


def misses_redis(daemon: Daemon) -> bool:
    return not daemon.status()["redis"]["reachable"]


def workers_boot(daemon: Daemon) -> bool:
    phases = [worker["phase"] for worker in daemon.status().get("workers", [])]
    return phases == ["booting", "booting"]


def test_waiting_for_redis_at_the_start(make_fleet: MakeFleet, start_server: Callable[..., RedisServer]) -> None:
    server = start_server(persist=True)
    fleet = make_fleet(server)
    server.kill()
    for daemon in fleet.values():
        daemon.start()
    for daemon in fleet.values():
        daemon.wait_for_message("trying for")
    fleet.send()
    for name in STOPS:
        fleet[name].assert_clean_exit(5)
    fleet.assert_orders_did_no_harm()
    server.start()
    assert_orders_are_obeyed(fleet)


def test_redis_down(make_fleet: MakeFleet, start_server: Callable[..., RedisServer]) -> None:
    server = start_server(persist=True)
    fleet = make_fleet(server)
    fleet.start_and_wait()
    server.kill()
    for daemon in fleet.values():
        wait_until(partial(misses_redis, daemon), LATE, "it knows that Redis is away")
    fleet.send()
    for name in STOPS:
        fleet[name].assert_clean_exit(DRAIN_SECONDS + 5)
    fleet["USR2"].wait_for_message("stacks of the master")
    fleet.assert_orders_did_no_harm()
    server.start()
    assert_orders_are_obeyed(fleet)
