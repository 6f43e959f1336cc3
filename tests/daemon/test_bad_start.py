"""Starts that must not succeed: one clear line, the right exit code, nothing changed, nothing left running."""

import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from fairqued import TaskQueue
from fairqued.connection import make_client
from tests.daemon.conftest import StartDaemon
from tests.support.daemon import LATE, run
from tests.support.process_tasks import add
from tests.support.servers import RedisServer

pytestmark = pytest.mark.process

NOWHERE = "unix:///nowhere/redis.sock"


def write(folder: Path, **settings: Any) -> str:
    """A configuration that is right but for what the test says."""
    path = folder / "fairqued.yaml"
    defaults = {"redis": {"url": NOWHERE, "start_timeout_seconds": 0.5}, "state_dir": str(folder / "state"),
                "metrics": {"listen": None}}  # fmt: skip
    path.write_text(yaml.safe_dump(defaults | settings))
    return str(path)


def assert_refused(folder: Path, *arguments: str, code: int, says: str) -> None:
    ended = run(*arguments, cwd=folder)
    told = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    assert ended.returncode == code, ended.stderr
    assert len(told) == 1, ended.stderr
    assert says in told[0]
    assert ended.stdout == ""


def test_wrong_type(short_path: Path) -> None:
    config = write(short_path, pools=[{"name": "main", "threads": "many"}])
    assert_refused(short_path, "-c", config, code=2, says='threads: expected a whole number >= 1, found "many"')
    assert_refused(short_path, "-c", config, "--check", code=2, says="pools[0].threads")
    assert not (short_path / "state").exists()


def test_check(short_path: Path) -> None:
    ended = run("-c", write(short_path), "--check", cwd=short_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "OK\n", "")
    assert not (short_path / "state").exists()


def test_no_such_file(short_path: Path) -> None:
    assert_refused(short_path, "-c", "nothing.yaml", code=2, says="nothing.yaml")


@pytest.mark.parametrize("arguments", [["--nonsense"], ["nonsense"], ["--config"], ["dev"]], ids=" ".join)
def test_wrong_usage(short_path: Path, arguments: list[str]) -> None:
    ended = run(*arguments, cwd=short_path)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("Error: ")


def test_redis_not_reachable(short_path: Path) -> None:
    assert_refused(short_path, "-c", write(short_path), code=5, says=f"Redis at {NOWHERE} cannot be reached")


def test_redis_that_wants_a_password(short_path: Path, start_server: Any) -> None:
    server = start_server(tcp=True)
    with make_client(server.url, LATE) as client:
        client.config_set("requirepass", "secret")
    config = write(short_path, redis={"url": f"redis://:wrong@127.0.0.1:{server.port}/0"})
    assert_refused(short_path, "-c", config, code=2, says="redis://:***@127.0.0.1")


@pytest.mark.parametrize("state_dir", ["/dev/null/state", "{folder}/fairqued.yaml/state"])
def test_state_directory_not_writable(
    short_path: Path, redis_server: RedisServer, namespace: str, state_dir: str
) -> None:
    place = state_dir.format(folder=short_path)
    config = write(short_path, redis={"url": redis_server.url}, namespace=namespace, state_dir=place)
    assert_refused(short_path, "-c", config, code=6, says=f"state_dir {place}: cannot be written: Not a directory")
    assert_nothing_changed(redis_server, namespace)


def assert_nothing_changed(server: RedisServer, namespace: str) -> None:
    with make_client(server.url, LATE) as client:
        assert list(client.scan_iter(match=f"{{{namespace}}}*")) == []


def test_a_second_daemon_on_the_same_state_directory(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon()
    ended = run("-c", str(daemon.config), cwd=daemon.directory)
    assert ended.returncode == 6
    assert ended.stderr == (
        f"fairqued: state_dir {daemon.state_dir}: another daemon uses it (process {daemon.pid}); "
        "stop that one, or set another state_dir\n"
    )
    assert queue.enqueue(add.task(1, 2)).result(30) == 3


def test_a_socket_path_that_is_too_long(short_path: Path, redis_server: RedisServer, namespace: str) -> None:
    long = short_path / ("x" * 80)
    for url in (redis_server.url, "embedded"):
        config = write(short_path, redis={"url": url}, namespace=namespace, state_dir=str(long))
        assert_refused(short_path, "-c", config, code=2, says="is too long for a Unix socket: it has")
    assert not long.exists()
    assert_nothing_changed(redis_server, namespace)


def test_a_control_socket_that_cannot_be_made(short_path: Path, redis_server: RedisServer, namespace: str) -> None:
    def configured(socket_path: Path) -> str:
        return write(
            short_path, redis={"url": redis_server.url}, namespace=namespace, control={"socket": str(socket_path)}
        )

    assert_refused(short_path, "-c", configured(short_path / "no" / "s"), code=2, says="No such file or directory")
    (short_path / "precious").write_text("data")
    assert_refused(short_path, "-c", configured(short_path / "precious"), code=2, says="Address already in use")
    assert (short_path / "precious").read_text() == "data"
    with socket.socket(socket.AF_UNIX) as other:  # as another daemon does
        other.bind(str(short_path / "taken"))
        other.listen()
        assert_refused(short_path, "-c", configured(short_path / "taken"), code=2, says="another daemon listens there")
    assert_nothing_changed(redis_server, namespace)


def test_a_stale_control_socket_is_no_obstacle(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    daemon.kill()
    assert (daemon.state_dir / "control.sock").is_socket()
    daemon.start_and_wait()
    assert daemon.status()["pid"] == daemon.pid
    daemon.terminate()
    daemon.assert_clean_exit(5)
    assert not (daemon.state_dir / "control.sock").exists()


def test_an_embedded_server_that_cannot_start_is_told_with_its_reason(make_daemon: StartDaemon) -> None:
    daemon = make_daemon(redis_url="embedded", redis={"server_binary": "/bin/false"}).start()
    assert daemon.wait() == 5
    assert "embedded Redis ended with status 1" in daemon.last_words()
    assert "Traceback" not in daemon.last_words()
