"""Who this daemon is: a state directory with an instance id, a boot counter, and locks that tell who is alive.

A worker's id is instance.boot.n and is never used twice. Locks are POSIX record locks: the kernel drops them with the
process that took them, and children do not inherit them.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import time
import uuid
from contextlib import suppress
from pathlib import Path

import orjson

from fairqued.scheduler.scheduler import Death

_FLOCK = "hhqqi4x"
_KILL_WAIT_SECONDS = 10.0


class StateDirUnusable(Exception):
    """The state directory cannot be used: not writable, or another daemon uses it."""


class StateDirectory:
    """The state directory of a running master, locked for as long as its process lives.

    Duties: refuse a second master; number the boots; name the workers; know which of a predecessor's workers are left.
    """

    def __init__(self, path: Path) -> None:
        """Lock `path`, made if it is not there. Raises StateDirUnusable."""
        self.path = path
        self._workers = path / "workers"
        self._named = 0
        try:
            self._workers.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock_fd = os.open(path / "master.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if not try_lock(self._lock_fd):
                raise StateDirUnusable(
                    f"state_dir {path}: another daemon uses it (process {lock_holder(self._lock_fd) or 'unknown'}); "
                    "stop that one, or set another state_dir"
                )
            self.instance = self._read_instance()
            self.boot = self._count_boot()
        except OSError as error:
            raise StateDirUnusable(f"state_dir {path}: cannot be written: {error.strerror}") from None

    def _read_instance(self) -> str:
        """The id of this directory on this host; a copy of the directory gets an id of its own."""
        here = {"host": socket.gethostname(), "inode": os.fstat(self._lock_fd).st_ino}
        file = self.path / "instance"
        try:
            known = orjson.loads(file.read_bytes())
            if known.get("host") == here["host"] and known.get("inode") == here["inode"]:
                return str(known["id"])
        except (FileNotFoundError, orjson.JSONDecodeError, AttributeError, KeyError):
            pass
        instance = uuid.uuid4().hex[:16]
        write_whole(file, orjson.dumps({"id": instance, **here}))
        return instance

    def _count_boot(self) -> int:
        file = self.path / "boot"
        try:
            boot = int(file.read_text()) + 1
        except (FileNotFoundError, ValueError):
            boot = int(time.time())  # never a number that a lost file has seen before
        write_whole(file, str(boot).encode())
        return boot

    def new_worker_id(self) -> str:
        """A worker id that was never used."""
        self._named += 1
        return f"{self.instance}.{self.boot}.{self._named}"

    def worker_file(self, worker_id: str) -> Path:
        """The file that a worker holds a lock on."""
        return self._workers / f"{worker_id}.lock"

    def announce(self, worker_id: str) -> None:
        """Leave a trace of a worker before it is forked, so that a successor looks after it."""
        self.worker_file(worker_id).touch(mode=0o600)

    def remember(self, death: Death) -> None:
        """Note how a worker ended, for a successor that may have to put back its tasks."""
        with suppress(OSError):  # on a full disk the successor takes it for lost
            self.worker_file(death.worker_id).write_bytes(death.why.encode() + b"\n" + death.error)

    def forget(self, worker_id: str) -> None:
        """Remove the trace of a worker whose tasks have been put back."""
        self.worker_file(worker_id).unlink(missing_ok=True)

    def predecessors(self) -> list[Death]:
        """Workers of earlier masters whose tasks were not put back yet; lost, unless it was noted how they ended.

        Those that still live are killed first; one that cannot be killed is left to its lease. In a copied directory
        there are none: the files in it tell of the original's workers.
        """
        left = sorted(self._workers.glob(f"{self.instance}.*.lock"))
        return [_noted(file) for file in left if kill_holder(file)]


def _noted(file: Path) -> Death:
    why, _, error = file.read_bytes().partition(b"\n")
    is_known = why in (b"drain", b"death", b"crash")
    return Death(worker_id=file.stem, why=why.decode() if is_known else "lost", error=error)


def lock_worker_file(path: Path) -> int:
    """Take the lock by which a worker shows that it lives; it is held until the process ends."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try_lock(fd)
    return fd


def try_lock(fd: int) -> bool:
    """Take the record lock of a file; False if another process holds it."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def lock_holder(fd: int) -> int | None:
    """The process that holds the record lock of a file; None if nobody does, or one that cannot be seen from here.

    A holder in another PID namespace or on another host is reported as 0 or -1, which `kill` takes for everybody.
    """
    if os.uname().sysname != "Linux":
        return None
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    return int(pid) if kind != fcntl.F_UNLCK and pid > 0 else None


def kill_holder(path: Path) -> bool:
    """Kill the process that holds the lock of a file, and wait until it is gone; False if it cannot be killed."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + _KILL_WAIT_SECONDS
        while not try_lock(fd):
            if time.monotonic() > deadline:
                return False
            if (pid := lock_holder(fd)) is not None:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
    finally:
        os.close(fd)
    return True


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file at once: after a crash it holds the old or the new content, never a part."""
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
