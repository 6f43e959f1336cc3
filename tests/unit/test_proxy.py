import time
from collections.abc import Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.proxy import Faults, FaultyProxy, Request
from tests.support.resp import CommandReader
from tests.support.servers import RedisServer
from tests.support.wait import wait_until

LATE = 20


@pytest.fixture
def proxy(redis_url: str) -> Iterator[FaultyProxy]:
    with FaultyProxy(redis_url, seed=1) as proxy:
        yield proxy


def client(url: str, timeout_seconds: float = 5) -> "redis.Redis":
    return redis.Redis.from_url(url, socket_timeout=timeout_seconds, retry=Retry(NoBackoff(), 0))


def count(url: str, key: str) -> int:
    with client(url) as direct:
        return int(direct.get(key) or 0)


def test_passes_everything_unchanged(proxy: FaultyProxy, namespace: str) -> None:
    big = bytes(range(256)) * 4096
    with client(proxy.url) as connection:
        connection.set(namespace, big)
        assert connection.get(namespace) == big
        pipeline = connection.pipeline(transaction=False)
        for number in range(5000):
            pipeline.rpush(f"{namespace}:list", number)
        assert pipeline.execute() == list(range(1, 5001))


def test_tcp_keeps_its_port_while_it_refuses(redis_url: str, namespace: str) -> None:
    with FaultyProxy(redis_url, tcp=True) as proxy, client(proxy.url) as connection:
        url = proxy.url
        assert connection.incr(namespace) == 1
        proxy.inject(Faults(refuse=True))
        with pytest.raises(redis.ConnectionError):
            connection.incr(namespace)
        proxy.heal()
        assert proxy.url == url
        assert connection.incr(namespace) == 2


def test_refuses_connections_on_a_unix_socket(proxy: FaultyProxy, namespace: str) -> None:
    with client(proxy.url) as connection:
        connection.ping()
        proxy.inject(Faults(refuse=True))
        for _ in range(2):
            with pytest.raises(redis.ConnectionError):
                connection.incr(namespace)
        proxy.heal()
        assert connection.incr(namespace) == 1


def test_dropped_reply_means_executed_and_no_answer(proxy: FaultyProxy, redis_url: str, namespace: str) -> None:
    proxy.inject(Faults(drop_next=2))
    with client(proxy.url) as connection:
        for executed in (1, 2):
            with pytest.raises(redis.ConnectionError):
                connection.incr(namespace)
            assert count(redis_url, namespace) == executed
        assert connection.incr(namespace) == 3
    assert proxy.counts.replies_dropped == 2


def test_a_pipeline_is_one_request_and_is_executed_whole(proxy: FaultyProxy, redis_url: str, namespace: str) -> None:
    proxy.inject(Faults(drop_next=1))
    with client(proxy.url) as connection:
        pipeline = connection.pipeline(transaction=False)
        for _ in range(100):
            pipeline.incr(namespace)
        with pytest.raises(redis.ConnectionError):
            pipeline.execute()
        wait_until(lambda: count(redis_url, namespace) == 100, LATE, "the whole pipeline is executed")
        assert connection.incr(namespace) == 101


def test_only_the_chosen_requests_lose_their_replies(proxy: FaultyProxy, namespace: str) -> None:
    def increments(request: Request) -> bool:  # redis-py says INCRBY for incr
        return any(command.name == "INCRBY" for command in request)

    proxy.inject(Faults(drop_next=1, only=increments))
    with client(proxy.url) as connection:
        assert connection.set(namespace, 5)
        with pytest.raises(redis.ConnectionError):
            connection.incr(namespace)
        assert connection.get(namespace) == b"6"


def test_replies_are_dropped_with_a_probability(proxy: FaultyProxy, redis_url: str, namespace: str) -> None:
    proxy.inject(Faults(drop_probability=0.3))
    lost = 0
    with client(proxy.url) as connection:
        for _ in range(100):
            try:
                connection.incr(namespace)
            except redis.ConnectionError:
                lost += 1
    assert 0 < lost < 100
    assert proxy.counts.replies_dropped == lost
    assert count(redis_url, namespace) == 100


def test_black_hole_swallows_requests(proxy: FaultyProxy, redis_url: str, namespace: str) -> None:
    with client(proxy.url, timeout_seconds=0.2) as connection:
        assert connection.incr(namespace) == 1
        proxy.inject(Faults(black_hole=True))
        for _ in range(2):
            with pytest.raises(redis.TimeoutError):
                connection.incr(namespace)
        proxy.heal()
        assert connection.incr(namespace) == 2
    assert count(redis_url, namespace) == 2


def test_black_hole_swallows_a_reply_on_its_way(proxy: FaultyProxy, redis_url: str, namespace: str) -> None:
    with client(proxy.url, timeout_seconds=1) as victim, client(redis_url) as direct:
        connection = victim.connection_pool.get_connection()
        connection.send_command("BLPOP", namespace, 0)
        wait_until(lambda: direct.info("clients")["blocked_clients"] == 1, LATE, "a client is blocked")
        proxy.inject(Faults(black_hole=True))
        direct.rpush(namespace, "lost")
        with pytest.raises(redis.TimeoutError):
            connection.read_response()
        assert direct.llen(namespace) == 0
        victim.connection_pool.release(connection)


def test_a_silent_black_hole_leaves_connections_dead(proxy: FaultyProxy, namespace: str) -> None:
    with client(proxy.url, timeout_seconds=0.2) as connection:
        connection.ping()
        proxy.inject(Faults(black_hole=True, silent=True))
        proxy.heal()
        with pytest.raises(redis.TimeoutError):
            connection.incr(namespace)
        assert connection.incr(namespace) == 1, "a new connection works"


def test_delay_slows(proxy: FaultyProxy, namespace: str) -> None:
    proxy.inject(Faults(delay_seconds=0.1))
    with client(proxy.url) as connection:
        before = time.monotonic()
        connection.incr(namespace)
        assert time.monotonic() - before >= 0.1


def test_a_delayed_request_arrives_after_its_own_retry(proxy: FaultyProxy, redis_url: str, namespace: str) -> None:
    with client(proxy.url, timeout_seconds=0.2) as connection:
        connection.ping()
        proxy.inject(Faults(delay_seconds=1))
        with pytest.raises(redis.TimeoutError):
            connection.rpush(namespace, "first sent")
        proxy.heal()
        connection.rpush(namespace, "retry")
    with client(redis_url) as direct:
        wait_until(lambda: direct.llen(namespace) == 2, LATE, "the delayed request arrives")
        assert direct.lrange(namespace, 0, -1) == [b"retry", b"first sent"]


def test_late_copies_arrive_once_each(proxy: FaultyProxy, redis_url: str, namespace: str) -> None:
    proxy.inject(Faults(copy_probability=1, copy_within_seconds=0.3))
    with client(proxy.url) as connection:
        for _ in range(20):
            connection.incr(namespace)
    wait_until(lambda: proxy.counts.copies_pending == 0, LATE, "every copy is delivered")
    assert proxy.counts.copies_made == 20
    assert count(redis_url, namespace) == 40


def test_copies_of_pipelines_are_whole_commands(proxy: FaultyProxy, redis_url: str, namespace: str) -> None:
    proxy.inject(Faults(copy_probability=1, copy_within_seconds=0.1))
    with client(proxy.url) as connection:
        for _ in range(20):
            pipeline = connection.pipeline(transaction=False)
            pipeline.incr(f"{namespace}:a").incr(f"{namespace}:b").execute()
    wait_until(lambda: proxy.counts.copies_pending == 0, LATE, "every copy is delivered")
    first, second = count(redis_url, f"{namespace}:a"), count(redis_url, f"{namespace}:b")
    assert first + second > 40 + 20, "some copies were whole"
    assert first != second or first + second < 80, "some copies were one command"


def test_transactions_are_copied_whole(proxy: FaultyProxy, redis_url: str, namespace: str) -> None:
    proxy.inject(Faults(copy_probability=1, copy_within_seconds=0.1))
    with client(proxy.url) as connection:
        for _ in range(10):
            connection.pipeline(transaction=True).incr(f"{namespace}:a").incr(f"{namespace}:b").execute()
    wait_until(lambda: proxy.counts.copies_pending == 0, LATE, "every copy is delivered")
    assert (count(redis_url, f"{namespace}:a"), count(redis_url, f"{namespace}:b")) == (20, 20)


def test_copies_go_to_the_database_of_their_connection(proxy: FaultyProxy, redis_url: str, namespace: str) -> None:
    proxy.inject(Faults(copy_probability=1, copy_within_seconds=0.1))
    with client(f"{proxy.url}?db=3") as connection:
        connection.incr(namespace)
    wait_until(lambda: proxy.counts.copies_pending == 0, LATE, "the copy is delivered")
    assert count(f"{redis_url}?db=3", namespace) == 2
    assert count(redis_url, namespace) == 0


def test_cut_closes_connections_and_accepts_new_ones(proxy: FaultyProxy, namespace: str) -> None:
    with client(proxy.url) as connection:
        held = connection.connection_pool.get_connection()
        proxy.cut()
        with pytest.raises(redis.ConnectionError):
            held.read_response()
        connection.connection_pool.release(held)
        assert connection.incr(namespace) == 1


def test_a_dead_redis_is_a_closed_connection() -> None:
    server = RedisServer()
    with server, FaultyProxy(server.url) as proxy, client(proxy.url) as connection:
        connection.ping()
        server.kill()
        for _ in range(2):
            with pytest.raises(redis.ConnectionError):
                connection.ping()
        server.start()
        assert connection.ping()


def test_closes_while_redis_is_frozen() -> None:
    server = RedisServer()
    with server, client(server.url) as direct:
        direct.ping()
        proxy = FaultyProxy(server.url).start()
        server.freeze()
        with client(proxy.url, timeout_seconds=0.2) as connection, pytest.raises(redis.TimeoutError):
            connection.ping()
        proxy.close()
        server.cont()
        assert direct.ping()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_reader_cuts_at_commands_whatever_the_chunks(size: int) -> None:
    stream = b"PING\r\n*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n*1\r\n$4\r\nexec\r\n*3\r\n$3\r\nSET\r\n$0\r\n\r\n$2\r\n"
    reader = CommandReader()
    commands = [
        command for start in range(0, len(stream), size) for command in reader.feed(stream[start : start + size])
    ]
    assert [command.words for command in commands] == [(b"PING",), (b"GET", b"a\r\nb"), (b"exec",)]
    assert [command.name for command in commands] == ["PING", "GET", "EXEC"]
    assert reader.feed(b"xy\r\n")[0].words == (b"SET", b"", b"xy")
    assert b"".join(command.raw for command in commands) + b"*3" in stream + b"xy\r\n"
