import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import psutil
import pytest

from fairqued.daemon.config import Config, PoolSettings, RedisSettings, WorkerSettings
from fairqued.daemon.pulse import Pulse
from fairqued.store import Ended
from fairqued.worker.vitals import Vitals, Will, Wish
from tests.support.wait import wait_until

LATE = 20
CONFIG = Config(redis=RedisSettings(url="embedded"), worker=WorkerSettings(lease_seconds=4, wedged_seconds=10))


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing at all."""
    with subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"],
                          stdout=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def pulse_of(pid: int, vitals: Vitals | None = None, **pool: object) -> Pulse:
    watched = Pulse(pid, vitals or Vitals(), PoolSettings(**pool), CONFIG)  # type: ignore[arg-type]
    watched._looked_at = watched._moved_at = watched._ran_at = 0.0
    watched.look(0)
    return watched


def looks(watched: Pulse, until: int) -> list[str]:
    """What it finds each second."""
    return [watched.look(now) for now in range(1, until + 1)]


def test_a_process_that_neither_beats_nor_computes_is_wedged(sleeper: subprocess.Popen[bytes]) -> None:
    found = looks(pulse_of(sleeper.pid), 10)
    assert found == [""] * 9 + ["gave no sign of life for worker.wedged_seconds (10)"]


def test_a_beat_is_a_sign_of_life(sleeper: subprocess.Popen[bytes]) -> None:
    vitals = Vitals()
    watched = pulse_of(sleeper.pid, vitals)
    looks(watched, 8)
    vitals.beat()
    assert [watched.look(now) for now in range(9, 19)] == [""] * 10
    assert watched.look(19) != ""


class Computing:
    """A process that uses as much CPU as the test says."""

    seconds = 0.0
    state = "sleeping"

    def oneshot(self) -> AbstractContextManager[None]:
        return nullcontext()

    def status(self) -> str:
        return self.state

    def cpu_times(self) -> os.times_result:
        return os.times_result((self.seconds, 0.0, 0.0, 0.0, 0.0))


def test_computing_is_a_sign_of_life() -> None:
    watched, process = pulse_of(os.getpid()), Computing()
    watched._process = cast("psutil.Process", process)
    watched._cpu_seconds = 0.0
    for now in range(1, 30):
        process.seconds += 0.06
        assert watched.look(now) == ""
    for now in range(30, 39):
        process.seconds += 0.01  # threads that wait for the interpreter
        assert watched.look(now) == ""
    assert watched.look(39) != ""


def test_a_process_that_somebody_debugs_is_left_alone() -> None:
    watched, process = pulse_of(os.getpid()), Computing()
    watched._process = cast("psutil.Process", process)
    process.state = psutil.STATUS_TRACING_STOP
    assert set(looks(watched, 30)) == {""}
    process.state = "sleeping"
    assert [watched.look(now) for now in range(31, 40)] == [""] * 9
    assert watched.look(40) != ""


def test_what_was_before_the_boot_was_over_does_not_count(sleeper: subprocess.Popen[bytes]) -> None:
    watched = pulse_of(sleeper.pid)
    looks(watched, 8)
    watched.begin(9)
    assert [watched.look(now) for now in range(10, 19)] == [""] * 9
    assert watched.look(19) != ""


def test_a_process_stopped_for_a_lease_is_given_up(sleeper: subprocess.Popen[bytes]) -> None:
    watched = pulse_of(sleeper.pid)
    os.kill(sleeper.pid, signal.SIGSTOP)
    wait_until(lambda: watched._process.status() == "stopped", LATE, "it is stopped")  # type: ignore[union-attr]
    assert looks(watched, 4) == ["", "", "", "was stopped for 4 s"]
    os.kill(sleeper.pid, signal.SIGCONT)
    wait_until(lambda: watched._process.status() != "stopped", LATE, "it goes on")  # type: ignore[union-attr]
    assert watched.look(5) == ""


def test_a_master_that_was_stopped_itself_begins_anew(sleeper: subprocess.Popen[bytes]) -> None:
    watched = pulse_of(sleeper.pid)
    assert watched.look(1000) == ""
    assert watched.look(1001) == ""


def test_a_dead_process_is_no_trouble(sleeper: subprocess.Popen[bytes]) -> None:
    watched = pulse_of(sleeper.pid)
    sleeper.kill()
    sleeper.wait()
    assert set(looks(watched, 20)) == {""}


def test_wishes(sleeper: subprocess.Popen[bytes]) -> None:
    vitals = Vitals()
    watched = pulse_of(sleeper.pid, vitals, name="main", max_tasks=5)
    assert watched.wish == ""
    vitals.wish_for_replacement(Wish.MAX_TASKS)
    watched.look(1)
    assert watched.wish == "it has run pools[main].max_tasks (5)"


def test_memory_is_a_reason(sleeper: subprocess.Popen[bytes]) -> None:
    assert pulse_of(sleeper.pid, max_rss_mb=10_000).wish == ""
    assert "more than pools[default].max_rss_mb (1)" in pulse_of(sleeper.pid, max_rss_mb=1).wish


def test_a_deadline_that_passed_unheeded_is_a_wish(sleeper: subprocess.Popen[bytes]) -> None:
    """The worker itself has two seconds to act."""
    vitals = Vitals()
    watched = pulse_of(sleeper.pid, vitals)
    ended = Ended("t", 3, "fail", 1, b"{}")
    vitals.leave_will(0, Will(ended, hard_at=5.0))
    vitals.leave_will(1, Will(ended._replace(task_id="u"), hard_at=50.0))
    looks(watched, 7)
    assert watched.wish == ""
    watched.look(8)
    assert watched.wish == "a task does not end, and lets nothing else run"
    assert watched.wills(8) == [ended]
    assert watched.wills(4.9) == []
