import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from fairqued.daemon import identity
from fairqued.daemon.identity import StateDirectory, StateDirUnusable, kill_holder, lock_holder, write_whole
from fairqued.scheduler.scheduler import Death

HOLD = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_by_another(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the lock of a file."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


def reopen(state: StateDirectory) -> StateDirectory:
    """As the next daemon finds it."""
    os.close(state._lock_fd)
    return StateDirectory(state.path)


def names(state: StateDirectory) -> list[str]:
    """The workers of predecessors."""
    return [death.worker_id for death in state.predecessors()]


def test_the_instance_is_kept_and_boots_are_counted(path: Path) -> None:
    first = StateDirectory(path)
    second = reopen(first)
    assert second.instance == first.instance
    assert second.boot == first.boot + 1


def test_worker_ids_are_never_used_twice(path: Path) -> None:
    first = StateDirectory(path)
    ids = [first.new_worker_id() for _ in range(3)]
    second = reopen(first)
    ids += [second.new_worker_id() for _ in range(3)]
    assert len(set(ids)) == 6
    assert all(worker_id.startswith(f"{first.instance}.") for worker_id in ids)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"[]", b'{"id": "x"}'])
def test_a_damaged_instance_file_gives_a_new_id(path: Path, content: bytes) -> None:
    first = StateDirectory(path)
    (path / "instance").write_bytes(content)
    second = reopen(first)
    assert second.instance != first.instance
    assert reopen(second).instance == second.instance


@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_a_damaged_boot_counter_starts_where_none_was_before(path: Path, content: bytes) -> None:
    first = StateDirectory(path)
    (path / "boot").write_bytes(content)
    assert reopen(first).boot >= first.boot


def test_a_copied_directory_gets_a_new_id_and_no_workers(path: Path, tmp_path: Path) -> None:
    original = StateDirectory(path)
    worker = original.new_worker_id()
    original.announce(worker)
    shutil.copytree(path, tmp_path / "copy")
    copy = StateDirectory(tmp_path / "copy")
    assert copy.instance != original.instance
    assert names(copy) == []
    assert names(reopen(original)) == [worker]


def test_another_host_gets_a_new_id(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = StateDirectory(path)
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    assert reopen(first).instance != first.instance


def test_a_second_living_master_is_refused_by_name(path: Path) -> None:
    path.mkdir()
    with held_by_another(path / "master.lock") as master:
        with pytest.raises(StateDirUnusable, match=rf"another daemon uses it \(process {master.pid}\)"):
            StateDirectory(path)
        assert not (path / "boot").exists()
    StateDirectory(path)


@pytest.mark.parametrize("inside", ["file/state", "file"])
def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path, inside: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateDirUnusable, match="cannot be written: "):
        StateDirectory(tmp_path / inside)


def test_predecessors_are_those_not_forgotten_with_what_was_noted(path: Path) -> None:
    first = StateDirectory(path)
    ids = [first.new_worker_id() for _ in range(3)]
    for worker_id in ids:
        first.announce(worker_id)
    first.remember(Death(worker_id=ids[0], why="drain"))
    first.forget(ids[1])
    assert reopen(first).predecessors() == [Death(worker_id=ids[0], why="drain"), Death(worker_id=ids[2], why="lost")]


def test_what_killed_a_predecessor_is_noted_whole(path: Path) -> None:
    first = StateDirectory(path)
    crashed = Death(worker_id=first.new_worker_id(), why="crash", error=b'{"signal":"SIGSEGV"}')
    first.remember(crashed)
    assert reopen(first).predecessors() == [crashed]


def test_a_note_that_makes_no_sense_counts_for_nothing(path: Path) -> None:
    first = StateDirectory(path)
    worker_id = first.new_worker_id()
    first.worker_file(worker_id).write_bytes(b"\xff\xfe\n")
    assert [death.why for death in reopen(first).predecessors()] == ["lost"]


def test_a_living_predecessor_is_killed_first(path: Path) -> None:
    state = StateDirectory(path)
    worker_id = state.new_worker_id()
    with held_by_another(state.worker_file(worker_id)) as orphan:
        assert names(state) == [worker_id]
        assert orphan.wait() == -signal.SIGKILL


def test_one_that_cannot_be_killed_is_left_to_its_lease(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = StateDirectory(path)
    worker_id = state.new_worker_id()
    monkeypatch.setattr(identity, "_KILL_WAIT_SECONDS", 0.1)
    monkeypatch.setattr(identity, "lock_holder", lambda _: None)
    with held_by_another(state.worker_file(worker_id)):
        assert names(state) == []
    assert names(state) == [worker_id]


def test_a_holder_that_cannot_be_seen_is_never_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel reports a holder of another PID namespace as 0, which `kill` takes for the own process group."""
    killed = []
    monkeypatch.setattr(identity, "_KILL_WAIT_SECONDS", 0.1)
    monkeypatch.setattr(os, "kill", lambda pid, _: killed.append(pid))
    for pid in (0, -1):
        reported = struct.pack(identity._FLOCK, fcntl.F_WRLCK, 0, 0, 0, pid)
        monkeypatch.setattr(fcntl, "fcntl", lambda *_, reported=reported: reported)
        monkeypatch.setattr(identity, "try_lock", lambda _: False)
        (tmp_path / "file").touch()
        assert not kill_holder(tmp_path / "file")
    assert killed == []


def test_the_holder_of_a_lock_is_known(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w+b") as file:
        assert lock_holder(file.fileno()) is None
        with held_by_another(tmp_path / "lock") as other:
            assert lock_holder(file.fileno()) == other.pid
        assert lock_holder(file.fileno()) is None


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_whole(file, b"old")
    write_whole(file, b"new")
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


def test_what_the_instance_file_holds(path: Path) -> None:
    state = StateDirectory(path)
    known = orjson.loads((path / "instance").read_bytes())
    assert known == {"id": state.instance, "host": socket.gethostname(),
                     "inode": (path / "master.lock").stat().st_ino}  # fmt: skip
