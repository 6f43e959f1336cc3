"""The one way to Redis: what is tried again and for how long, and what its errors become."""

import os
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest
import redis

from fairqued import ConfigError, NotAllowed, QueueUnavailable, Task, TaskQueue
from fairqued.connection import Connection, backoff_seconds, make_client, masked, resolve_url, translate
from fairqued.queue import default_queue
from tests.support.resp import CommandReader
from tests.support.servers import RedisServer, ServerBinary
from tests.support.wait import wait_until

StartServer = Callable[..., RedisServer]

URLS = {
    "redis://localhost:6379/0": "redis://localhost:6379/0",
    "redis://:secret@localhost": "redis://:***@localhost",
    "redis://bob:secret@[::1]:6379/0": "redis://bob:***@[::1]:6379/0",
    "rediss://bob:s:e@c/r?e#t@host:1/2": "rediss://bob:***@host:1/2",
    "unix://bob:secret@/run/r.sock": "unix://bob:***@/run/r.sock",
    "unix:///run/r.sock?db=1&password=secret&x=1": "unix:///run/r.sock?db=1&password=***&x=1",
    "rediss://h/0?ssl_password=secret&ssl_keyfile=k": "rediss://h/0?ssl_password=***&ssl_keyfile=k",
    "redis://h?PASSWORD=secret": "redis://h?PASSWORD=***",
    "redis://bob@localhost": "redis://bob@localhost",
    "redis://host:badport": "redis://host:badport",
    "nonsense": "nonsense",
    "": "",
}


@pytest.mark.parametrize(("url", "shown"), URLS.items())
def test_passwords_are_masked(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_an_embedded_redis_is_found_in_its_state_directory() -> None:
    assert resolve_url("fairqued:///var/lib/fairqued") == "unix:///var/lib/fairqued/redis.sock"
    assert resolve_url("fairqued:///a b/100%") == "unix:///a%20b/100%25/redis.sock"
    kept: Any = make_client("fairqued:///a b/100%", 1).connection_pool.connection_kwargs
    assert kept["path"] == "/a b/100%/redis.sock"


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "http://localhost",
        "redis",
        "redis://localhost:port",
        "redis://:secret@localhost:99999999/0",
        "rediss://:secret@localhost/0?ssl_ca_cert=/misspelt",
    ],
)
def test_a_bad_url_is_a_config_error_before_anything_is_opened(url: str) -> None:
    with pytest.raises(ConfigError, match="Redis URL") as caught:
        TaskQueue(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("arguments", "why"), [((5,), "found 5"), ((b"redis://h",), "expected text, found b'redis:")])
def test_a_url_that_is_no_text_is_a_config_error(arguments: tuple[Any], why: str) -> None:
    with pytest.raises(ConfigError, match=f"^Redis URL: .*{why}"):
        TaskQueue(*arguments)


def test_a_namespace_that_is_no_text_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="namespace 5: expected"):
        TaskQueue("redis://localhost", namespace=5)  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "x", None, 10**400])
def test_a_bad_timeout_is_a_config_error(seconds: Any) -> None:
    with pytest.raises(ConfigError, match="timeout_seconds: expected a number above 0"):
        TaskQueue("redis://localhost", timeout_seconds=seconds)


def test_without_a_url_there_is_no_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAIRQUED_REDIS_URL", raising=False)
    monkeypatch.delenv("FAIRQUED_NAMESPACE", raising=False)
    for make in (TaskQueue, default_queue):
        with pytest.raises(ConfigError, match=r"no Redis URL: give one to TaskQueue\(\), or set \$FAIRQUED_REDIS_URL"):
            make()
    monkeypatch.setenv("FAIRQUED_REDIS_URL", "redis://localhost")
    assert TaskQueue().namespace == "fairque"
    monkeypatch.setenv("FAIRQUED_NAMESPACE", "shop")
    assert TaskQueue().namespace == "shop"
    assert TaskQueue(namespace="own").namespace == "own"
    with pytest.raises(ConfigError, match="namespace 'a b': expected"):
        TaskQueue(namespace="a b")


def test_nothing_is_opened_before_the_first_call() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.2)
        queue = TaskQueue(f"redis://127.0.0.1:{listening.getsockname()[1]}")
        queue.handle("1")
        with pytest.raises(TimeoutError):
            listening.accept()


# A Redis that only refuses


class Refusal(socketserver.BaseRequestHandler):
    """Answers a client's greetings politely, and each command with an error."""

    reply: bytes
    greets: bool

    def handle(self) -> None:
        reader = CommandReader()
        while data := self.request.recv(65_536):
            for command in reader.feed(data):
                polite = self.greets and command.name in ("HELLO", "CLIENT", "SELECT", "AUTH")
                self.request.sendall(b"+OK\r\n" if polite else self.reply)


@contextmanager
def refusing_server(reply: str, *, greets: bool) -> Iterator[str]:
    handler = type("Handler", (Refusal,), {"reply": f"{reply}\r\n".encode(), "greets": greets})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"redis://bob:secret@127.0.0.1:{server.server_address[1]}/0"
        finally:
            server.shutdown()
            thread.join()


REFUSALS = {
    "-LOADING Redis is loading the dataset in memory": QueueUnavailable,
    "-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.": QueueUnavailable,
    "-READONLY You can't write against a read only replica.": QueueUnavailable,
    "-OOM command not allowed when used memory > 'maxmemory'.": QueueUnavailable,
    "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": QueueUnavailable,
    "-CLUSTERDOWN The cluster is down": QueueUnavailable,
    "-TRYAGAIN Multiple keys request during rehashing of slot": QueueUnavailable,
    "-MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist": QueueUnavailable,
    "-NOREPLICAS Not enough good replicas to write.": QueueUnavailable,
    "-ERR max number of clients reached": QueueUnavailable,
    "-NOAUTH Authentication required.": NotAllowed,
    "-WRONGPASS invalid username-password pair or user is disabled.": NotAllowed,
    "-NOPERM this user has no permissions to run the 'evalsha' command": NotAllowed,
    "HTTP/1.1 400 Bad Request": QueueUnavailable,
}


@pytest.mark.parametrize("greets", [True, False], ids=["to a command", "to the greeting"])
@pytest.mark.parametrize(("reply", "kind"), REFUSALS.items(), ids=lambda value: str(value)[:20])
def test_what_the_errors_of_redis_become(reply: str, kind: type[Exception], *, greets: bool) -> None:
    with refusing_server(reply, greets=greets) as url, pytest.raises(kind) as caught:
        TaskQueue(url, namespace="n", timeout_seconds=0.2).enqueue(Task(user_id="alice"))
    message = str(caught.value)
    assert type(caught.value) is kind
    assert message.count("Redis at redis://bob:***@127.0.0.1:") == 1
    assert "secret" not in message
    assert "\n" not in message


def test_an_error_that_is_no_matter_of_reachability_stays_as_it_is() -> None:
    error = redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
    assert translate(error, "redis://localhost") is error


@pytest.mark.parametrize("error", [QueueUnavailable("Redis at x cannot be reached: no"), NotAllowed("no: NOPERM")])
def test_an_error_of_ours_is_not_translated_again(error: Exception) -> None:
    assert translate(error, "redis://localhost") is error


@pytest.mark.parametrize("reply", ["-NOAUTH Authentication required.", "-NOPERM no"])
def test_a_forbidden_call_is_not_tried_again(reply: str) -> None:
    tries: list[float] = []

    def ping(client: Any) -> Any:
        tries.append(time.monotonic())
        return client.ping()

    with refusing_server(reply, greets=True) as url, pytest.raises(NotAllowed):
        Connection(url, timeout_seconds=30).call(ping)
    assert len(tries) == 1


# Real servers


def enqueue(url: str, *, timeout_seconds: float = 0.3) -> None:
    TaskQueue(url, namespace="n", timeout_seconds=timeout_seconds).enqueue(Task(user_id="alice"))


def test_a_port_that_nobody_listens_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(QueueUnavailable) as caught:
        enqueue(f"redis://:secret@127.0.0.1:{port}/0")
    assert str(caught.value).startswith(f"Redis at redis://:***@127.0.0.1:{port}/0 cannot be reached: ")
    assert str(caught.value).count(str(port)) <= 2
    assert "refused" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_host_that_nobody_knows() -> None:
    with pytest.raises(QueueUnavailable, match=r"^Redis at redis://nowhere\.invalid:6379 cannot be reached: "):
        enqueue("redis://nowhere.invalid:6379")


@pytest.mark.server
def test_a_script_out_of_memory(server_binary: ServerBinary, start_server: StartServer) -> None:
    server = start_server(server_binary, options=["--maxmemory", "1"])
    with pytest.raises(QueueUnavailable, match=r"refuses to work: .*maxmemory"):
        enqueue(server.url)


@pytest.mark.server
def test_a_script_on_a_replica(server_binary: ServerBinary, start_server: StartServer) -> None:
    server = start_server(server_binary, options=["--replicaof", "127.0.0.1", "1"])
    with pytest.raises(QueueUnavailable, match=r"refuses to work: .*read only replica"):
        enqueue(server.url)


@pytest.mark.server
def test_a_server_that_wants_a_password(server_binary: ServerBinary, start_server: StartServer) -> None:
    server = start_server(server_binary)
    with make_client(server.url, 5) as client:
        client.config_set("requirepass", "open sesame")
    with pytest.raises(NotAllowed, match=r"refused: .*[Aa]uthenticat"):
        enqueue(server.url)
    with pytest.raises(NotAllowed) as caught:
        enqueue(server.url.replace("unix://", "unix://:guess@"))
    assert "guess" not in str(caught.value)
    enqueue(server.url.replace("unix://", "unix://:open%20sesame@"))


@pytest.mark.server
@pytest.mark.parametrize("rules", ["~* +@all -@scripting", "~* +@all -mset", "~other:* +@all"])
def test_a_user_without_rights(rules: str, server_binary: ServerBinary, start_server: StartServer) -> None:
    server = start_server(server_binary)
    with make_client(server.url, 5) as client:
        admin: Any = client
        admin.execute_command("ACL", "SETUSER", "bob", "on", ">secret", *rules.split())
    with pytest.raises(NotAllowed, match="refused: ") as caught:
        enqueue(server.url.replace("unix://", "unix://bob:secret@"))
    assert "secret" not in str(caught.value)


@pytest.mark.server
def test_a_busy_server_is_waited_for(server_binary: ServerBinary, start_server: StartServer) -> None:
    server = start_server(server_binary, options=["--lua-time-limit", "1"])
    with make_client(server.url, 30) as client, ThreadPoolExecutor() as pool:
        endless = pool.submit(lambda: client.eval("while true do end", 0))
        wait_until(lambda: is_busy(server.url), 10, "Redis is busy")
        with pytest.raises(QueueUnavailable, match="refuses to work: BUSY"):
            enqueue(server.url)
        waiting = pool.submit(lambda: enqueue(server.url, timeout_seconds=30))
        with make_client(server.url, 5) as killer:
            killer.script_kill()
        assert waiting.result() is None
        assert isinstance(endless.exception(), redis.ResponseError)


def is_busy(url: str) -> bool:
    with make_client(url, 5) as client:
        try:
            client.ping()
        except redis.ResponseError as error:
            return "BUSY" in str(error)
    return False


@pytest.mark.server
def test_too_many_clients_are_waited_for(server_binary: ServerBinary, start_server: StartServer) -> None:
    server = start_server(server_binary)
    with make_client(server.url, 5) as first, ThreadPoolExecutor() as pool:
        first.config_set("maxclients", 1)
        with pytest.raises(QueueUnavailable, match="cannot be reached: "):  # said, or a broken pipe
            enqueue(server.url)
        waiting = pool.submit(lambda: enqueue(server.url, timeout_seconds=30))
        first.config_set("maxclients", 100)
        assert waiting.result() is None


# Tries and deadlines


def test_a_call_goes_on_when_the_server_is_back(start_server: StartServer) -> None:
    server = start_server()
    queue = TaskQueue(server.url, namespace="n", timeout_seconds=60)
    queue.enqueue(Task(user_id="alice"))
    server.kill()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(lambda: queue.enqueue(Task(user_id="alice", task_id="1")))
        server.start()
        assert waiting.result().state() == "queued"


def test_one_try_gets_at_most_half_of_the_time(start_server: StartServer) -> None:
    server = start_server()
    server.freeze()
    began: list[float] = []

    def ping(client: Any) -> Any:
        began.append(time.monotonic())
        return client.ping()

    with pytest.raises(QueueUnavailable, match="cannot be reached: Timeout"):
        Connection(server.url, timeout_seconds=1).call(ping)
    assert len(began) >= 2


def test_the_deadline_is_kept_even_when_the_last_try_hangs(start_server: StartServer) -> None:
    server = start_server()
    server.freeze()
    deadline = time.monotonic() + 4
    tries: list[float] = []

    def slow_to_refuse(client: Any) -> Any:
        tries.append(time.monotonic())
        if len(tries) == 1:
            time.sleep(3)
            raise redis.ConnectionError("refused")
        return client.ping()

    with pytest.raises(QueueUnavailable, match="Timeout"):
        Connection(server.url, timeout_seconds=4).call(slow_to_refuse)
    assert len(tries) >= 2
    assert time.monotonic() < deadline + 0.7, "the last try took more than what was left"


def test_another_address_of_the_host_gets_a_chance(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start_server(tcp=True)
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # then the kernel drops what comes
            waiting = stack.enter_context(closing(socket.socket()))
            waiting.setblocking(False)  # noqa: FBT003 - that is its name
            waiting.connect_ex(full.getsockname())
        addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
                     for port in (full.getsockname()[1], server.port)]  # fmt: skip
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: addresses)
        connection = Connection("redis://many.example", timeout_seconds=2)
        began = time.monotonic()
        assert connection.once(lambda client: client.ping())
        assert 0.2 < time.monotonic() - began < 1, "the first address did not answer"
        connection.close()


def test_the_pauses_grow_and_differ() -> None:
    for attempt, most in ((0, 0.05), (1, 0.1), (3, 0.4), (10, 2.0), (1_000, 2.0)):
        pauses = {backoff_seconds(attempt) for _ in range(100)}
        assert len(pauses) > 50
        assert most / 2 <= min(pauses) < max(pauses) <= most


def test_a_pause_is_counted_from_the_beginning_of_the_try() -> None:
    assert backoff_seconds(10, spent_seconds=2) == 0
    assert 0 < backoff_seconds(10, spent_seconds=0.9) <= 1.1


# Threads and processes


def test_more_threads_than_connections(redis_url: str) -> None:
    connection = Connection(redis_url, timeout_seconds=30)
    start = threading.Barrier(150)

    def ping(_: int) -> bool:
        start.wait()
        return bool(connection.call(lambda client: client.ping()))

    with ThreadPoolExecutor(150) as pool:
        assert all(pool.map(ping, range(150)))
    connection.close()
    assert connection.call(lambda client: client.ping())


@pytest.mark.parametrize("lock_held", [False, True], ids=["idle", "pool's lock held by another thread"])
def test_a_forked_child_gets_a_client_of_its_own(redis_url: str, *, lock_held: bool) -> None:
    connection = Connection(redis_url)
    assert connection.call(lambda client: client.ping())
    inherited = connection.client
    locked, done = threading.Event(), threading.Event()

    def hold() -> None:
        with inherited.connection_pool._lock:
            locked.set()
            done.wait()

    thread = threading.Thread(target=hold)
    if lock_held:
        thread.start()
        locked.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(15)
        try:
            fresh = connection.client is not inherited and connection.client is connection.client
            os._exit(0 if fresh and connection.call(lambda client: client.ping()) else 1)
        finally:
            os._exit(2)
    ended: list[int] = []

    def has_ended() -> bool:
        pid, status = os.waitpid(child, os.WNOHANG)
        ended.append(status)
        return pid == child

    try:
        wait_until(has_ended, 20, "the child ends")
    finally:
        done.set()
        if lock_held:
            thread.join()
    assert os.waitstatus_to_exitcode(ended[-1]) == 0
    assert connection.client is inherited
    assert connection.call(lambda client: client.ping())
