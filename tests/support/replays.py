"""Each script called over a network that loses its first reply, and that delivers the first request once more, late.

A row says how a script is called. It is called in two namespaces: in the *twin* undisturbed, in the other one with the
reply lost, so that our own retry repeats it. Both have to hold the same afterwards. Then both go on, and a late copy of
the first request arrives in the disturbed one alone, where it has to change nothing.

    python -m tests.support.replays SERVER_URL

prints one JSON object for each row; PYTHONPATH decides which redis-py is used.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import redis

from fairqued import Task, TaskQueue
from fairqued.connection import Connection, Operation
from fairqued.doctor.fsck import findings, fsck
from fairqued.doctor.snapshot import Snapshot
from fairqued.errors import QueueUnavailable
from fairqued.record import FENCE_FIELD, HEADER
from fairqued.store import Ended, Finished
from tests.support.proxy import Faults, FaultyProxy, Request
from tests.support.world import FOREVER_US, LEASE_US, SimulatedWorker, World, limits, new_task

T = TypeVar("T")

OTHERS_LIMIT = {"alice": limits(max_running=1)}


class Scene:
    """A namespace with one worker, and what a row did in it so far."""

    def __init__(self, url: str, namespace: str) -> None:
        self.world = World(url, namespace)
        self.worker = self.world.worker("w")
        self.nonces = [self.world.nonce() for _ in range(2)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.world, name)

    def running(self, *task_ids: str) -> SimulatedWorker:
        """The worker, with these tasks started."""
        self.world.push(*task_ids)
        assert sorted(self.worker.pop(len(task_ids))) == sorted(task_ids)
        return self.worker

    def state(self) -> Snapshot:
        """What Redis holds, but for the bells: they are hints, and may ring once too often."""
        whole = self.world.snapshot()
        kept = [key for key in whole.types if not key.startswith("bell:")]
        return Snapshot({key: whole.types[key] for key in kept}, {key: whole.values[key] for key in kept})


Act = Callable[[Scene], Any]


@dataclass(frozen=True)
class Row:
    """How one script is called, and what happens before a late copy of that call arrives."""

    script: str
    prepare: Act
    call: Act
    then: Act
    """What comes after the call and before the late copy."""
    settle: Act = lambda _scene: None
    """What comes after the late copy, in both namespaces."""
    variant: str = ""

    @property
    def name(self) -> str:
        """What a test calls it."""
        return " ".join(filter(None, (self.script, self.variant)))


def nothing(_scene: Scene) -> None:
    """Nothing happens."""


def sequence(*acts: Act) -> Act:
    """One act after the other."""
    return lambda scene: [act(scene) for act in acts]


def push(*task_ids: str, **options: Any) -> Act:
    return lambda scene: scene.push(*task_ids, **options)


def pop(most: int = 1) -> Act:
    return lambda scene: scene.worker.pop(most)


def finish(*task_ids: str) -> Act:
    return lambda scene: scene.worker.finish(*task_ids)


def let_pass(seconds: float) -> Act:
    return lambda scene: scene.clock.advance(seconds)


def cancel(*task_ids: str) -> Act:
    return lambda scene: scene.store.cancel(task_ids, scene.nonces[0])


def retry(*task_ids: str) -> Act:
    return lambda scene: scene.store.retry(scene.nonces[1], task_ids)


def trim(**options: Any) -> Act:
    return lambda scene: scene.trim(**options)


def reclaim(why: str) -> Act:
    return lambda scene: scene.store.reclaim("w", why)


def other_pops(scene: Scene) -> Any:
    """Another worker takes what there is."""
    return scene.world.worker("other").pop(9)


def exchange(scene: Scene) -> Any:
    """As a worker does: completions and the next claim in one round trip."""
    worker = scene.worker
    finished = [Finished("a", worker.fences["a"], b"1", 60_000)]
    ended = [Ended("b", worker.fences["b"], "retry", 1000, b"{}")]
    answer = scene.store.exchange("w", finished, ended, 2, 3, ["default"])
    worker.last_claim = 2
    worker.fences |= {task_id: HEADER.unpack_from(raw)[FENCE_FIELD] for task_id, raw in answer.popped.tasks}
    return answer


ROWS = (
    Row("push", nothing, push("a", "b"), sequence(pop(), finish("a"), push("c"))),
    Row("push", nothing, push("a"), sequence(pop(), finish("a"), let_pass(1), trim(finished=(1, FOREVER_US))),
        variant="of a task that is trimmed by then"),
    Row("push", push("a"), lambda scene: scene.store.push(scene.nonces[0], "replace", [new_task("a", spec=b"{}")]),
        sequence(pop(), finish("a")), variant="that replaces"),
    Row("register", nothing, lambda scene: scene.store.register("w2", LEASE_US, b"{}", {"f": b"{}"}),
        sequence(push("a"), lambda scene: SimulatedWorker(scene.world, "w2").pop())),
    Row("register", nothing, lambda scene: scene.store.register("w2", LEASE_US, b"{}", {}),
        lambda scene: scene.store.reclaim("w2", "death"), variant="of a worker that is dead by then"),
    Row("pop", push("a", "b", "c", "d"), pop(2), sequence(finish("a"), pop())),
    Row("pop", push("a", "b"), pop(2), sequence(reclaim("death"), other_pops),
        variant="of a worker that is dead by then"),
    Row("pop", nothing, pop(2), sequence(push("a"), pop()), variant="of nothing"),
    Row("finish", lambda scene: scene.running("a", "b"), finish("a", "b"), sequence(push("c"), pop())),
    Row("finish", lambda scene: scene.running("a"), finish("a"),
        sequence(let_pass(1), trim(finished=(1, FOREVER_US)), let_pass(700), trim(), push("a")),
        variant="of a task whose id is used again"),
    Row("finish", sequence(lambda scene: scene.running("a", "b"), push("c", "d")), exchange,
        sequence(finish("c"), let_pass(1), pop()), variant="with the next claim"),
    Row("fail", lambda scene: scene.running("a"), lambda scene: scene.worker.fail("a"), sequence(retry("a"), pop())),
    Row("fail", lambda scene: scene.running("a"), lambda scene: scene.worker.retry("a", delay_us=1000),
        sequence(let_pass(1), pop()), variant="that is to be retried"),
    Row("fail", lambda scene: scene.running("a"), lambda scene: scene.worker.hand_back("a", delay_us=1000),
        sequence(let_pass(1), pop()), variant="without the code"),
    Row("heartbeat", lambda scene: scene.running("a", "b"), lambda scene: scene.worker.heartbeat("a"),
        sequence(pop(), push("c"), pop(), finish("a"))),
    Row("reclaim", lambda scene: scene.running("a", "b"), reclaim("death"), other_pops),
    Row("reclaim", lambda scene: scene.running("a"), reclaim("crash"), other_pops, variant="after a crash"),
    Row("reclaim", lambda scene: scene.running("a"), reclaim("drain"), other_pops, variant="after a drain"),
    Row("cancel", push("a"), cancel("a"), retry("a")),
    Row("cancel", lambda scene: scene.running("a"), cancel("a"), sequence(finish("a"), retry("a"), pop()),
        variant="of a running task"),
    Row("retry", sequence(push("a"), cancel("a")), retry("a"), sequence(pop(), lambda scene: scene.worker.fail("a"))),
    Row("promote", sequence(push("a", due="+1000"), let_pass(1)), lambda scene: scene.store.promote(), pop()),
    Row("tick", lambda scene: scene.running("a"), lambda scene: scene.tick("w"), sequence(push("b"), pop())),
    Row("tick", sequence(lambda scene: scene.running("a"), lambda scene: scene.tick(), let_pass(4),
        lambda scene: scene.tick(), let_pass(4), lambda scene: scene.tick(), let_pass(4), lambda scene: scene.tick(),
        let_pass(4)), lambda scene: scene.tick(), other_pops, variant="that finds a lease over"),
    Row("trim", sequence(lambda scene: scene.running("a", "b"), finish("a", "b"), let_pass(1)),
        trim(finished=(1, FOREVER_US)), sequence(push("c"), pop())),
    Row("configure", push("a"), lambda scene: scene.store.configure("one", {"weight": 2}, OTHERS_LIMIT),
        lambda scene: scene.store.configure("two", {"weight": 3}, {})),
    Row("unpark", sequence(lambda scene: scene.limit(OTHERS_LIMIT), push("a", "b", "c"), pop(3)),
        lambda scene: scene.limit({"alice": limits(max_running=2)}), pop(3), settle=pop(3)),
    Row("stats", push("a"), lambda scene: scene.store.stats(10)[1:], pop()),
)  # fmt: skip


@dataclass
class Report:
    """What came of one row."""

    row: str
    problems: list[str] = field(default_factory=list)

    def expect(self, what: str, found: object, expected: object) -> None:
        if found != expected:
            self.problems.append(f"{what}: {found!r}, expected {expected!r}")

    def expect_same(self, when: str, disturbed: Snapshot, twin: Snapshot) -> None:
        """The same keys with the same values."""
        self.expect(f"keys {when}", disturbed.types, twin.types)
        for key, value in twin.values.items():
            self.expect(f"{key} {when}", disturbed.values.get(key), value)
        self.problems += [f"fsck {when}: {finding}" for finding in findings(disturbed)]


class Trial:
    """One row, played in a namespace and its twin."""

    def __init__(self, row: Row, url: str, proxy: FaultyProxy, number: int) -> None:
        self._row, self._url, self._proxy = row, url, proxy
        self._disturbed, self._twin = Scene(url, f"disturbed-{number}"), Scene(url, f"twin-{number}")
        script = self._disturbed.store._scripts[row.script]
        self._calls_it = {script.sha.encode(), script.text.encode()}
        self._requests: list[Request] = []
        self.report = Report(row.name)

    def play(self) -> Report:
        for scene in (self._disturbed, self._twin):
            self._row.prepare(scene)
        self._call()
        self.report.expect_same("after the call", self._disturbed.state(), self._twin.state())
        for scene in (self._disturbed, self._twin):
            self._row.then(scene)
        send_late(self._url, self._requests[0])
        for scene in (self._disturbed, self._twin):
            self._row.settle(scene)
        self.report.expect_same("after the late copy", self._disturbed.state(), self._twin.state())
        for scene in (self._disturbed, self._twin):
            scene.world.close()
        return self.report

    def _call(self) -> None:
        expected = self._row.call(self._twin)
        dropped = self._proxy.counts.replies_dropped
        store = self._disturbed.store
        direct, store.connection = store.connection, Connection(self._proxy.url)
        self._proxy.inject(Faults(drop_next=1, only=self._notes))
        found = store.connection.persist(lambda: self._row.call(self._disturbed))
        self._proxy.heal()
        store.connection.close()
        store.connection = direct
        self.report.expect("replies dropped", self._proxy.counts.replies_dropped - dropped, 1)
        self.report.expect("times that Redis was asked", len(self._requests), 2)
        self.report.expect("shape of the answer", shape(found), shape(expected))

    def _notes(self, request: Request) -> bool:
        is_it = any(self._calls_it & set(command.words) for command in request)
        if is_it:
            self._requests.append(request)
        return is_it


def shape(answer: Any) -> Any:
    """The types of an answer: a caller has to understand a replay's, too."""
    return [type(part) for part in answer] if isinstance(answer, tuple) else type(answer)


def send_late(url: str, request: Request) -> None:
    """A request arrives once more, on a connection of its own; its reply is thrown away."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(urlsplit(url).path)
        connection.sendall(b"".join(command.raw for command in request))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65_536):
            pass


def increments(connection: Connection) -> dict[str, Operation[Any]]:
    """Ways to send one INCR, of a key that is named as the way."""

    def alone(client: Any) -> Any:
        return client.execute_command("INCR", "alone")

    def in_a_pipeline(client: Any) -> Any:
        with client.pipeline(transaction=False) as pipe:
            pipe.execute_command("INCR", "in_a_pipeline")
            return pipe.execute()

    def apart(_client: Any) -> Any:
        own = connection.apart()
        try:
            own.send_command("INCR", "apart")
            return own.read_response()
        finally:
            own.disconnect()

    return {each.__name__: each for each in (alone, in_a_pipeline, apart)}


def silent_retries(url: str, proxy: FaultyProxy) -> Report:
    """A try is one request, whatever becomes of it: redis-py repeats nothing by itself."""
    report = Report(silent_retries.__name__)
    connection, direct = Connection(proxy.url, timeout_seconds=0.4), Connection(url)
    losing = Faults(drop_probability=1, only=lambda request: any(command.name == "INCR" for command in request))
    late = Faults(delay_seconds=0.3)
    for name, operation in increments(connection).items():
        for faults in (losing, late):
            proxy.inject(faults)
            try:
                report.problems.append(f"{name} succeeded under {faults}: {connection.once(operation)}")
            except QueueUnavailable:
                continue
    proxy.heal()
    time.sleep(0.5)  # whatever is on its way arrives meanwhile; a late greeting is all that was sent apart
    for name, times in {"alone": 2, "in_a_pipeline": 2, "apart": 1}.items():
        found = direct.call(partial(_read_number, name))
        report.expect(f"requests {name}", found, times)
    connection.close()
    direct.close()
    return report


def public_client(url: str, proxy: FaultyProxy) -> Report:
    """Every method of the client and of its lease, the first reply of each lost."""
    report = Report(public_client.__name__)
    queue = TaskQueue(proxy.url, namespace="public", user_id="alice")
    lease = queue.lease(lease_seconds=300, heartbeat_seconds=100)

    def losing(call: Callable[[], T]) -> T:
        dropped = proxy.counts.replies_dropped
        proxy.inject(Faults(drop_next=1))
        answer = call()
        report.expect("replies dropped", proxy.counts.replies_dropped - dropped, 1)
        proxy.heal()
        return answer

    first = losing(lambda: queue.enqueue(Task(task_id="first", payload=1)))
    report.expect("tasks enqueued", len(losing(lambda: queue.enqueue_many(Task(payload=1) for _ in range(250)))), 250)
    report.expect("cancel, retry", [losing(first.cancel), losing(first.retry)], [True, True])
    report.expect("state", losing(first.state), "queued")
    losing(lease.__enter__)
    task, other = losing(lambda: lease.dequeue(2))
    losing(lambda: lease.finish_task(task, {"done": True}))
    losing(lambda: lease.fail_task(other, "no"))
    report.expect("result", losing(lambda: queue.handle(task.task_id).result(5)), {"done": True})
    losing(lambda: lease.dequeue(3))
    losing(lambda: lease.__exit__(None, None, None))
    counters = losing(queue.stats).counters
    report.expect("counters", {name: counters[name] for name in ("enqueued", "finished", "failed", "reclaimed")},
                  {"enqueued": 251, "finished": 1, "failed": 1, "reclaimed": 3})  # fmt: skip
    direct = Connection(url)
    report.problems += fsck(direct.client, "public")
    direct.close()
    queue.close()
    return report


def _read_number(key: str, client: Any) -> int:
    return int(client.get(key) or 0)


def main(url: str) -> None:
    """Play every row, and print what came of each."""
    with FaultyProxy(url) as proxy:
        reports = [Trial(row, url, proxy, number).play() for number, row in enumerate(ROWS)]
        reports += [silent_retries(url, proxy), public_client(url, proxy)]
    for report in reports:
        print(json.dumps([redis.__version__, report.row, report.problems]))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
