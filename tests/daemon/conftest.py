"""Daemons of a test's own, on a namespace of its own, whose soundness is checked at the end."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fairqued import TaskQueue
from fairqued.connection import make_client
from fairqued.ctl.acl import WORKER, Role
from fairqued.doctor.fsck import fsck
from tests.support.daemon import LATE, Daemon
from tests.support.roles import role_url, without_password
from tests.support.servers import RedisServer

StartDaemon = Callable[..., Daemon]


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The newest server of this machine, shared by tests that leave it alone."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def url_of(request: pytest.FixtureRequest, redis_server: RedisServer, namespace: str) -> Callable[[Role], str]:
    """The address for a role; with --acl that of a user with its rights, without a password to be masked."""
    if not request.config.getoption("--acl"):
        return lambda _: redis_server.url
    for_the_tests = ("nopass", "+scan", "+type", "+dbsize")  # fsck
    return lambda role: without_password(role_url(redis_server.url, namespace, role, *for_the_tests))


@pytest.fixture
def make_daemon(redis_server: RedisServer, namespace: str, url_of: Callable[[Role], str]) -> Iterator[StartDaemon]:
    """Make daemons of one namespace: `make_daemon(redis_url=…, **settings)`; they are started by the test."""
    daemons: list[Daemon] = []

    def make(redis_url: str | None = None, **settings: Any) -> Daemon:
        daemon = Daemon(redis_url or url_of(WORKER), namespace, settings)
        daemons.append(daemon)
        return daemon

    yield make
    for daemon in daemons:
        daemon.end()
    findings = _fsck(redis_server, namespace)
    for daemon in daemons:
        daemon.remove()
    assert findings == []


def _fsck(server: RedisServer, namespace: str) -> list[str]:
    with make_client(server.url, LATE) as client:
        return fsck(client, namespace)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path leaves room for a socket."""
    with tempfile.TemporaryDirectory(prefix="fq-", dir="/tmp") as path:
        yield Path(path)


@pytest.fixture
def start_daemon(make_daemon: StartDaemon) -> StartDaemon:
    """Start a daemon and wait until its workers are ready."""
    return lambda *args, **settings: make_daemon(*args, **settings).start_and_wait()


@pytest.fixture
def queue(url_of: Callable[[Role], str], namespace: str) -> Iterator[TaskQueue]:
    """A client of the test's namespace, whose tasks are alice's unless they say otherwise."""
    queue = TaskQueue(url_of(WORKER), namespace=namespace, user_id="alice")
    yield queue
    queue.close()
