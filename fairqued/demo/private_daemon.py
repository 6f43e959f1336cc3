"""A real `fairqued` with a state directory of its own, for as long as a `with` block lasts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson

from fairqued.daemon.embedded import socket_path
from fairqued.demo import guard, tasks
from fairqued.demo.stop import StopRequest
from fairqued.errors import ConfigError, FairquedError, QueueUnavailable
from fairqued.queue import TaskQueue

_START_SECONDS, _STOP_SECONDS, _DRAIN_SECONDS = 30.0, 15.0, 5.0
_CALL_SECONDS, _FIRST_CALLS_SECONDS, _PAUSE_SECONDS = 10.0, 0.2, 0.02


class DaemonTrouble(FairquedError):
    """The daemon did not start, or ended on its own."""


class PrivateDaemon:
    """A master with an embedded Redis and some workers, in a session of its own.

    Duties: start it and wait until its workers are ready; end it in good order; remove its state, unless it was given a
    folder for that; leave nothing behind even when this process is killed, for which it has a guard.
    """

    state: Path

    def __init__(self, state_dir: Path | None, *, processes: int, threads: int, stop: StopRequest) -> None:
        self.processes, self.threads = processes, threads
        self.exit_code: int | None = None
        self._state_dir, self._stop = state_dir, stop
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For `TaskQueue`."""
        return f"fairqued://{self.state}"

    @property
    def pid(self) -> int:
        """The master's process."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, QueueUnavailable):
                self.check()  # its end is the cause, and its log says more
        finally:
            self.stop()

    def check(self) -> None:
        """Raise DaemonTrouble, with the last lines of its log, if it has ended; Stopped if that was asked for."""
        self._stop.check()
        if self._process is not None and (code := self._process.poll()) is not None:
            raise DaemonTrouble(f"the daemon ended with exit code {code}{self._last_words()}")

    def stop(self) -> None:
        """End it in good order, with all its processes, and clean up. Stopping twice does no harm."""
        if self._process is not None:
            self.exit_code = self._end(self._process)
            self._process = None
        if self._state_dir is None and hasattr(self, "state"):
            shutil.rmtree(self.state, ignore_errors=True)
        if self._guard is not None:
            self._guard.communicate(b"done")
            self._guard = None

    def _start(self) -> None:
        self.state = _make_state(self._state_dir)
        socket_path(self.state)  # refuses a path that is too long
        config = self.state / "fairqued.yaml"
        config.write_bytes(orjson.dumps(self._settings(), option=orjson.OPT_INDENT_2) + b"\n")  # JSON is YAML
        removed = "" if self._state_dir else str(self.state)
        self._guard = subprocess.Popen(  # noqa: S603 - our own file
            [sys.executable, "-I", guard.__file__, removed],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            cwd="/", start_new_session=True,
        )  # fmt: skip
        with (self.state / "fairqued.log").open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-P", "-m", "fairqued.daemon.main", "--config", str(config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.state, start_new_session=True,
                env={name: value for name, value in os.environ.items() if not name.startswith("FAIRQUED")},
            )  # fmt: skip
        assert self._guard.stdin is not None
        self._guard.stdin.write(b"%d\n" % self._process.pid)
        self._guard.stdin.flush()
        self._wait_until_ready()

    def _settings(self) -> dict[str, object]:
        return {
            "redis": {"url": "embedded"},
            "state_dir": str(self.state),
            "imports": [tasks.__name__],
            "python_path": [],
            "pools": [{"name": "default", "processes": self.processes, "threads": self.threads}],
            "worker": {"drain_seconds": _DRAIN_SECONDS},
            "metrics": {"listen": None},
            "logging": {"format": "text"},
        }

    def _wait_until_ready(self) -> None:
        queue = TaskQueue(self.url, timeout_seconds=_FIRST_CALLS_SECONDS)
        deadline = time.monotonic() + _START_SECONDS
        while _workers(queue) < self.processes:
            self.check()
            if time.monotonic() > deadline:
                raise DaemonTrouble(f"the daemon was not ready after {_START_SECONDS:g} s{self._last_words()}")
            time.sleep(_PAUSE_SECONDS)
        queue.close()

    def connect(self) -> TaskQueue:
        """A client of it."""
        return TaskQueue(self.url, timeout_seconds=_CALL_SECONDS)

    def _end(self, process: subprocess.Popen[bytes]) -> int:
        process.terminate()
        try:
            return process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        finally:
            _kill_session(process)

    def _last_words(self) -> str:
        log = self.state / "fairqued.log"
        lines = log.read_text(errors="replace").splitlines()[-10:] if log.exists() else []
        return "".join(f"\n  {line}" for line in lines)


def _make_state(state_dir: Path | None) -> Path:
    if state_dir is None:
        return Path(tempfile.mkdtemp(prefix="fq-demo-")).resolve()
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        is_used = any(state_dir.iterdir())
    except OSError as error:
        raise ConfigError(f"--state-dir {state_dir}: {error.strerror}") from None
    if is_used:
        raise ConfigError(f"--state-dir {state_dir}: is not empty; the demo wants a folder of its own")
    return state_dir.resolve()


def _workers(queue: TaskQueue) -> int:
    try:
        return len(queue.stats().workers)
    except QueueUnavailable:
        return 0


def _kill_session(leader: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a session whose leader has ended, or does not end."""
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()
