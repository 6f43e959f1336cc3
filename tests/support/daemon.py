"""A real `fairqued` for a test: started on a state directory of its own, signalled, watched, and always cleaned up."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil
import yaml

from fairqued import TaskQueue
from tests.support import process_tasks
from tests.support.ledger import Ledger
from tests.support.process_tasks import Start
from tests.support.wait import wait_until

CHECKOUT = Path(__file__).parents[2]
PROGRAM = (str(Path(sys.executable).parent / "fairqued"),)
LATE = 30
_NOT_INHERITED = ("FAIRQUED", "XDG_", "STATE_", "PYTHONUNBUFFERED")
_CLEAN_ENV = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}

Settings = Mapping[str, Any]


@dataclass
class Daemon:
    """One `fairqued` and the folder it lives in.

    Duties: write its configuration; start it in a process group of its own; say what became of it and of its workers;
    leave no process behind.
    """

    redis_url: str
    namespace: str
    settings: Settings = field(default_factory=dict)
    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="fq-", dir="/tmp")))
    program: Sequence[str] = PROGRAM
    process: subprocess.Popen[bytes] | None = None

    # Where things are

    @property
    def state_dir(self) -> Path:
        return self.directory / "state"

    @property
    def config(self) -> Path:
        return self.directory / "fairqued.yaml"

    @property
    def log_file(self) -> Path:
        return self.directory / "log"

    @property
    def output_file(self) -> Path:
        """What tasks print."""
        return self.directory / "output"

    @property
    def url(self) -> str:
        """The address of its Redis, for clients."""
        return f"fairqued://{self.state_dir}" if self.redis_url == "embedded" else self.redis_url

    @property
    def pid(self) -> int:
        assert self.process is not None, "the daemon was not started"
        return self.process.pid

    def queue(self) -> TaskQueue:
        """A client of its namespace, whose tasks are alice's unless they say otherwise."""
        return TaskQueue(self.url, namespace=self.namespace, user_id="alice")

    # What its tasks wrote down

    @property
    def ledger(self) -> Ledger:
        return process_tasks.ledger_of(self.directory)

    def starts(self) -> list[Start]:
        """Every execution of `work`, `hold` and the like that began."""
        return process_tasks.starts_of(self.directory)

    def open_gate(self, name: str) -> None:
        """Let the tasks that `hold` at this gate go on."""
        (self.directory / name).touch()

    # Starting

    def write_config(self, **changes: Any) -> Path:
        """Write its configuration, with these changes; `start` does it, without any."""
        self.config.write_text(yaml.safe_dump(merged(merged(self._defaults(), self.settings), changes)))
        return self.config

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> Self:
        """Start it, and return at once."""
        self.write_config()
        with self.log_file.open("ab") as log, self.output_file.open("ab") as output:
            self.process = subprocess.Popen(
                [*self.program, "--config", str(self.config), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                cwd=self.directory,
                env={**_CLEAN_ENV, process_tasks.DIRECTORY_VARIABLE: str(self.directory), **(env or {})},
                start_new_session=True,
            )
        return self

    def start_and_wait(self) -> Self:
        """Start it, and return when all its workers are ready."""
        self.start()
        self.wait_until_ready()
        return self

    def wait_until_ready(self) -> None:
        """Wait until every worker is ready."""
        wait_until(self._is_ready, LATE, f"the daemon of {self.directory} is ready")

    def _is_ready(self) -> bool:
        assert self.is_running, f"the daemon ended with {self.exit_code}:\n{self.last_words()}"
        workers = self.status().get("workers", [])
        return bool(workers) and all(worker["phase"] == "ready" for worker in workers)

    def _defaults(self) -> dict[str, Any]:
        return {
            "redis": {"url": self.redis_url},
            "namespace": self.namespace,
            "state_dir": str(self.state_dir),
            "python_path": [str(CHECKOUT), str(self.directory)],
            "imports": ["tests.support.process_tasks"],
            "pools": [{"name": "main", "processes": 1, "threads": 2}],
            "worker": {"drain_seconds": 10},
            "metrics": {"listen": None},
        }

    # Watching

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def exit_code(self) -> int | None:
        return self.process.poll() if self.process is not None else None

    def status(self) -> dict[str, Any]:
        """What it answers on its control socket; empty while it does not."""
        with socket.socket(socket.AF_UNIX) as talk:
            talk.settimeout(LATE)
            try:
                talk.connect(str(self.state_dir / "control.sock"))
                talk.sendall(b'{"command": "status"}\n')
                answer = talk.makefile("rb").readline()
            except OSError:
                return {}
        return json.loads(answer)["ok"] if answer else {}

    def worker_pids(self) -> list[int]:
        """The living workers, the oldest first."""
        return [process.pid for process in self.children() if is_alive(process.pid) and "worker" in title(process.pid)]

    def children(self) -> list[psutil.Process]:
        """The processes that the master started, the oldest first."""
        try:
            return sorted(psutil.Process(self.pid).children(), key=lambda process: (process.create_time(), process.pid))
        except psutil.NoSuchProcess:
            return []

    def group(self) -> list[int]:
        """The living processes of its group, also those whose master is gone."""
        return [pid for pid in psutil.pids() if group_of(pid) == self.pid and is_alive(pid)]

    def logs(self) -> list[dict[str, Any]]:
        """Its log, line by line; what is not JSON comes as {"raw": line}."""
        return [_parsed(line) for line in self.log_file.read_text(errors="replace").splitlines()]

    def messages(self, part: str = "") -> list[str]:
        """The messages of its log that hold `part`."""
        texts = [str(line.get("message", line.get("raw"))) for line in self.logs()]
        return [text for text in texts if part in text]

    def last_words(self) -> str:
        """The end of its log."""
        return self.log_file.read_text(errors="replace")[-3000:]

    def wait_for_message(self, part: str, times: int = 1) -> None:
        """Wait until so many messages of the log hold `part`."""
        wait_until(lambda: len(self.messages(part)) >= times, LATE, f"{times} times {part!r} in the log")

    def wait_for_starts(self, count: int) -> list[Start]:
        """Wait until so many executions began."""
        return wait_until(lambda: starts if len(starts := self.starts()) >= count else [], LATE, f"{count} starts")

    # Ending

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the master alone, and return when it is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def kill_all(self) -> None:
        """Kill master and workers at once, and return when all of them are gone."""
        os.killpg(self.pid, signal.SIGKILL)
        self.end()

    def kill_workers(self) -> list[int]:
        """Kill every worker at once; their processes."""
        pids = self.worker_pids()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return pids

    def freeze(self) -> None:
        """Stop the master and its workers from running."""
        for pid in [self.pid, *self.worker_pids()]:
            os.kill(pid, signal.SIGSTOP)

    def cont(self) -> None:
        """Let all of them go on."""
        os.killpg(self.pid, signal.SIGCONT)

    def wait(self, within_seconds: float = LATE) -> int:
        """Wait for its end: the exit code."""
        assert self.process is not None
        return self.process.wait(within_seconds)

    def assert_clean_exit(self, within_seconds: float) -> None:
        """It ends with 0, in time, without a traceback and without leaving a process behind."""
        began = time.monotonic()
        code = self.wait(within_seconds + LATE)
        took = time.monotonic() - began
        assert code == 0, f"exit code {code}:\n{self.last_words()}"
        assert took <= within_seconds, f"it took {took:.1f} s:\n{self.last_words()}"
        assert self.group() == []
        assert "Traceback" not in self.log_file.read_text(), self.last_words()

    def end(self) -> None:
        """Kill whatever is left of it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            wait_until(self._is_all_killed, LATE, "nothing of the daemon is left")

    def _is_all_killed(self) -> bool:
        left = self.group()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    def remove(self) -> None:
        """Kill whatever is left of it and remove its folder."""
        self.end()
        shutil.rmtree(self.directory, ignore_errors=True)


def run(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `fairqued` to its end."""
    return subprocess.run(
        [*PROGRAM, *arguments], capture_output=True, text=True, cwd=cwd, timeout=LATE, check=False,
        env={**_CLEAN_ENV, **(env or {})}, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def merged(base: Settings, over: Settings) -> dict[str, Any]:
    """Settings laid over others: mappings merge, all else is replaced."""
    both = dict(base)
    for key, value in over.items():
        both[key] = merged(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
    return both


def is_alive(pid: int) -> bool:
    """Whether a process runs, or is stopped: not dead, and no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def title(pid: int) -> str:
    """What process lists show for a process."""
    try:
        return " ".join(psutil.Process(pid).cmdline()).strip()
    except psutil.Error:
        return ""


def group_of(pid: int) -> int | None:
    """The process group of a process, if it is there."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def wait_until_gone(pids: Iterable[int], within_seconds: float) -> None:
    """Wait until none of these processes is left."""
    left = list(pids)
    wait_until(lambda: not any(is_alive(pid) for pid in left), within_seconds, f"processes {left} are gone")


def _parsed(line: str) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
    except json.JSONDecodeError:
        return {"raw": line}
    return parsed if isinstance(parsed, dict) else {"raw": line}
