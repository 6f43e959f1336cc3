"""A client call is over within its deadline, whatever Redis does or leaves undone, and recovers by itself."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from itertools import count
from pathlib import Path

import pytest

from fairqued import EnqueueIncomplete, QueueUnavailable, Task, TaskQueue
from fairqued.store import NewTask
from tests.support.proxy import Faults, FaultyProxy
from tests.support.servers import RedisServer
from tests.support.wait import wait_until

DEADLINE_SECONDS = 0.5
AT_MOST_SECONDS = DEADLINE_SECONDS + 0.6
LATE = 20

Talk = Callable[[socket.socket, threading.Event], None]


@contextmanager
def listening(talk: Talk) -> Iterator[str]:
    """A server that treats its clients as `talk` does: its address."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(50) as threads:
        threads.submit(_accept, server, talk, over, threads)
        try:
            yield f"redis://:secret@127.0.0.1:{server.getsockname()[1]}/1"
        finally:
            over.set()


def _accept(server: socket.socket, talk: Talk, over: threading.Event, threads: ThreadPoolExecutor) -> None:
    server.settimeout(0.05)
    while not over.is_set():
        try:
            client, _ = server.accept()
        except TimeoutError:
            continue
        threads.submit(_serve, client, talk, over)


def _serve(client: socket.socket, talk: Talk, over: threading.Event) -> None:
    with closing(client):
        try:
            talk(client, over)
        except OSError:
            return


def never_answer(_client: socket.socket, over: threading.Event) -> None:
    over.wait()


def trickle(client: socket.socket, over: threading.Event) -> None:
    """Each byte comes in time, the reply never ends."""
    client.sendall(b"$1000000\r\n")
    while not over.wait(0.02):
        client.sendall(b"x")


def greet_slowly(client: socket.socket, over: threading.Event) -> None:
    """Each step of the greeting is answered in time; all together they take too long."""
    while client.recv(65_536) and not over.wait(0.2):
        client.sendall(b"+OK\r\n")


def flood(client: socket.socket, over: threading.Event) -> None:
    """Something comes all the time, and is no reply."""
    client.sendall(b"+")
    while not over.wait(0.001):
        client.sendall(b"x" * 1000)


@contextmanager
def never_accepting(folder: Path) -> Iterator[str]:
    """A socket whose queue of connections is full."""
    path = folder / "full.sock"
    with socket.socket(socket.AF_UNIX) as server, ExitStack() as stack:
        server.bind(str(path))
        server.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(closing(socket.socket(socket.AF_UNIX)))
            waiting.setblocking(False)  # noqa: FBT003 - that is its name
            try:
                waiting.connect(str(path))
            except BlockingIOError:
                break
        yield f"unix://{path}"


class Trouble:
    """A Redis that goes away in one of four ways, and comes back."""

    def __init__(self, how: str, server: RedisServer, proxy: FaultyProxy) -> None:
        self.how, self._server, self._proxy = how, server, proxy
        self.queue = TaskQueue(proxy.url, namespace="n", user_id="alice", timeout_seconds=DEADLINE_SECONDS)

    def begin(self) -> None:
        match self.how:
            case "killed":
                self._server.kill()
            case "frozen":
                self._server.freeze()
            case "refused":
                self._proxy.inject(Faults(refuse=True))
            case "black hole":
                self._proxy.inject(Faults(black_hole=True))

    def end(self) -> None:
        match self.how:
            case "killed":
                self._server.start()
            case "frozen":
                self._server.cont()
            case _:
                self._proxy.heal()


MakeTrouble = Callable[[str], Trouble]


@pytest.fixture
def make_trouble(start_server: Callable[..., RedisServer]) -> Iterator[MakeTrouble]:
    """Make troubles that have not begun yet, each with a server of its own."""
    with ExitStack() as stack:

        def make(how: str) -> Trouble:
            server = start_server(persist=True)
            trouble = Trouble(how, server, stack.enter_context(FaultyProxy(server.url)))
            stack.callback(trouble.queue.close)
            return trouble

        yield make


def tasks(count: int) -> list[Task[object]]:
    return [Task(payload="x" * 1000) for _ in range(count)]


def one(queue: TaskQueue) -> object:
    return queue.enqueue(*tasks(1))


def many(queue: TaskQueue) -> object:
    return queue.enqueue_many(tasks(1000))


def seconds_to_give_up(queue: TaskQueue, call: Callable[[TaskQueue], object]) -> float:
    began = time.monotonic()
    with pytest.raises(QueueUnavailable):
        call(queue)
    return time.monotonic() - began


def longest(calls: Iterable[tuple[TaskQueue, Callable[[TaskQueue], object]]]) -> float:
    """The longest time that one of these calls took to give up; all are made at the same time."""
    with ThreadPoolExecutor(20) as threads:
        return max(future.result(LATE) for future in [threads.submit(seconds_to_give_up, *call) for call in calls])


def test_redis_goes_away_and_comes_back(make_trouble: MakeTrouble) -> None:
    troubles = [make_trouble(how) for how in ("killed", "frozen", "refused", "black hole")]
    for trouble in troubles:
        one(trouble.queue)
        trouble.begin()
    assert longest((trouble.queue, call) for trouble in troubles for call in (one, many)) < AT_MOST_SECONDS
    for trouble in troubles:
        trouble.end()
        one(trouble.queue)
        many(trouble.queue)
        counted = trouble.queue.stats().counters["enqueued"]
        assert 1002 <= counted <= 1203, f"{trouble.how}: at most the call and the chunk in doubt were accepted"


def test_an_outage_in_the_middle_of_a_big_enqueue(make_trouble: MakeTrouble, monkeypatch: pytest.MonkeyPatch) -> None:
    trouble = make_trouble("refused")
    store = trouble.queue._store
    push, pushes = store.push, count()

    def push_once(nonce: bytes, if_exists: str, new: Iterable[NewTask]) -> list[str]:
        if next(pushes):
            trouble.begin()
        return push(nonce, if_exists, new)

    monkeypatch.setattr(store, "push", push_once)
    began = time.monotonic()
    with pytest.raises(EnqueueIncomplete, match="200 of 1000 tasks were enqueued, then: Redis at ") as caught:
        many(trouble.queue)
    assert time.monotonic() - began < AT_MOST_SECONDS
    assert len(caught.value.handles) == 200


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
@pytest.mark.parametrize("talk", [never_answer, trickle, greet_slowly, flood])
def test_a_server_that_does_not_answer(talk: Talk, scheme: str) -> None:
    with listening(talk) as url:
        queue = TaskQueue(url.replace("redis", scheme), user_id="alice", timeout_seconds=DEADLINE_SECONDS)
        assert longest((queue, call) for call in (one, many)) < AT_MOST_SECONDS
        queue.close()


def test_a_server_that_does_not_accept(tmp_path: Path) -> None:
    with never_accepting(tmp_path) as url:
        queue = TaskQueue(url, user_id="alice", timeout_seconds=DEADLINE_SECONDS)
        assert seconds_to_give_up(queue, one) < AT_MOST_SECONDS


def test_a_lease_keeps_the_deadline_too(make_trouble: MakeTrouble, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    trouble = make_trouble("black hole")
    with trouble.queue.lease(heartbeat_seconds=0.02) as lease:
        trouble.begin()
        for _ in range(3):
            began = time.monotonic()
            with pytest.raises(QueueUnavailable):
                lease.dequeue()
            assert time.monotonic() - began < AT_MOST_SECONDS
        trouble.end()
        assert lease.dequeue() == []
        wait_until(lambda: "Redis is back" in caplog.text, LATE, "a heartbeat tells")
    assert len(caplog.messages) == 2, "heartbeats that fail are told once"
