from collections.abc import Callable

import pytest
import redis

from tests.support.servers import RedisServer, ServerBinary


def client(url: str, timeout_seconds: float = 5) -> "redis.Redis":
    return redis.Redis.from_url(url, socket_timeout=timeout_seconds, retry=None)


def test_each_server_answers_and_is_the_version_it_says(redis_url: str, server_binary: ServerBinary) -> None:
    with client(redis_url) as connection:
        info = connection.info("server")
    said = info.get("valkey_version", info["redis_version"])
    assert tuple(int(part) for part in said.split(".")) == server_binary.version


def test_namespaces_differ(namespace: str, request: pytest.FixtureRequest) -> None:
    assert namespace.startswith("test-")
    assert len(namespace) == len("test-") + 12


def test_persisted_data_survive_kill_and_restart(start_server: Callable[..., RedisServer]) -> None:
    server = start_server(persist=True, tcp=True)
    with client(server.url) as connection:
        connection.set("a", "1")
    server.kill()
    assert not server.running
    server.start()
    with client(server.tcp_url) as connection:
        assert connection.get("a") == b"1"
    server.restart()
    with client(server.url) as connection:
        assert connection.get("a") == b"1"


def test_frozen_server_answers_nothing_until_it_goes_on(start_server: Callable[..., RedisServer]) -> None:
    server = start_server()
    server.freeze()
    with client(server.url, timeout_seconds=0.2) as connection, pytest.raises(redis.TimeoutError):
        connection.ping()
    server.cont()
    with client(server.url) as connection:
        assert connection.ping()
