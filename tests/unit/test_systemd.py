"""What systemd is told, read from a real datagram socket."""

import os
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fairqued.daemon.systemd import Systemd

LATE = 10


@dataclass
class Manager:
    """The socket of a service manager."""

    address: str
    socket: socket.socket

    def environ(self, **more: str) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self.address, "HOME": "/", **more}

    def hears(self) -> dict[str, str]:
        """The next datagram, by variable."""
        lines = self.socket.recv(65536).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)

    def hears_nothing(self) -> bool:
        return not select.select([self.socket], [], [], 0)[0]


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = f"@fairqued-{os.getpid()}-{time.monotonic_ns()}" if request.param == "abstract" else str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address.replace("@", "\0", 1))
        listening.settimeout(LATE)
        yield Manager(address, listening)


def test_the_life_of_a_daemon(manager: Manager) -> None:
    systemd = Systemd(manager.environ())
    systemd.needs_time(1.5)
    assert manager.hears() == {"EXTEND_TIMEOUT_USEC": "1500000"}
    systemd.ready("2 workers")
    assert manager.hears() == {"READY": "1", "STATUS": "2 workers"}
    systemd.status("1 worker")
    assert manager.hears() == {"STATUS": "1 worker"}
    before = time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6
    systemd.reloading()
    said = manager.hears()
    assert said["RELOADING"] == "1"
    assert before - 1 <= int(said["MONOTONIC_USEC"]) <= time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6 + 1
    systemd.stopping("draining", within_seconds=30)
    assert manager.hears() == {"STOPPING": "1", "STATUS": "draining", "EXTEND_TIMEOUT_USEC": "30000000"}
    systemd.stopping("at once")
    assert manager.hears() == {"STOPPING": "1", "STATUS": "at once"}
    assert manager.hears_nothing()


def test_a_status_is_one_short_line(manager: Manager) -> None:
    systemd = Systemd(manager.environ())
    systemd.status("fairqued.yaml, line 3:\nMAINPID=1\r\n  not a number \udce4")
    assert manager.hears() == {"STATUS": "fairqued.yaml, line 3: MAINPID=1 not a number ?"}
    systemd.ready("ä" * 5000)
    assert manager.hears() == {"READY": "1", "STATUS": "ä" * 500}


def test_the_same_status_is_told_once(manager: Manager) -> None:
    systemd = Systemd(manager.environ())
    systemd.ready("2 workers")
    manager.hears()
    systemd.status("2 workers")
    systemd.ready("2 workers")
    assert manager.hears_nothing()
    systemd.ready("3 workers")
    assert manager.hears() == {"STATUS": "3 workers"}
    systemd.reloading()
    manager.hears()
    systemd.status("3 workers")
    assert manager.hears() == {"STATUS": "3 workers"}
    systemd.ready("3 workers")
    assert manager.hears() == {"READY": "1", "STATUS": "3 workers"}


def test_signs_of_life_are_as_rare_as_the_watchdog_allows(manager: Manager) -> None:
    systemd = Systemd(manager.environ(WATCHDOG_USEC="1500000", WATCHDOG_PID=str(os.getpid())))
    systemd.ready("up")
    manager.hears()
    systemd.alive()
    began = time.monotonic()
    assert manager.hears() == {"WATCHDOG": "1"}
    while manager.hears_nothing():
        systemd.alive()
        time.sleep(0.005)
    assert 0.45 <= time.monotonic() - began < LATE


def test_while_a_reload_gets_on_it_may_take_its_time(manager: Manager) -> None:
    systemd = Systemd(manager.environ(WATCHDOG_USEC="1"))
    systemd.ready("1 worker")
    manager.hears()
    systemd.reloading()
    manager.hears()
    systemd.alive()
    assert manager.hears() == {"WATCHDOG": "1", "EXTEND_TIMEOUT_USEC": "1"}
    systemd.ready("1 worker")
    manager.hears()
    systemd.alive()
    assert manager.hears() == {"WATCHDOG": "1"}


@pytest.mark.parametrize(
    "watchdog",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}],
    ids=str,
)
def test_no_signs_of_life_for_nobody(manager: Manager, watchdog: dict[str, str]) -> None:
    Systemd(manager.environ(**watchdog)).alive()
    assert manager.hears_nothing()


def test_nothing_is_left_in_the_environment(manager: Manager) -> None:
    environ = manager.environ(WATCHDOG_USEC="1", WATCHDOG_PID="2")
    Systemd(environ)
    assert environ == {"HOME": "/"}


def speak(systemd: Systemd) -> None:
    systemd.needs_time(1)
    systemd.reloading()
    systemd.ready("up")
    systemd.status("well")
    systemd.alive()
    systemd.stopping("down", within_seconds=3)


@pytest.mark.parametrize(
    "address", ["", "/nowhere/notify", "@nobody-listens-here", "vsock:2:1234", "relative", "/" * 500]
)
def test_nobody_listens(address: str) -> None:
    speak(Systemd({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1"}))


def test_without_systemd() -> None:
    speak(Systemd({}))


def test_a_manager_that_does_not_read_holds_nobody_up(manager: Manager) -> None:
    systemd = Systemd(manager.environ())
    began = time.monotonic()
    for number in range(2000):
        systemd.status(f"{number} tasks")
    assert time.monotonic() - began < LATE
    assert manager.hears() == {"STATUS": "0 tasks"}


def test_what_was_dropped_is_told_again(manager: Manager) -> None:
    systemd = Systemd(manager.environ(WATCHDOG_USEC="90000000"))
    full = 0
    while systemd._send("filler"):
        full += 1
    for _ in range(2):
        systemd.ready("2 workers")
        systemd.alive()
        for _ in range(full):
            assert manager.socket.recv(64) == b"filler"
        full = 0
    assert manager.hears() == {"READY": "1", "STATUS": "2 workers"}
    assert manager.hears() == {"WATCHDOG": "1"}
    assert manager.hears_nothing()
