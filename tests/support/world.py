"""One namespace with a simulated clock, and words for what clients, workers and masters do in it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypedDict, Unpack

import orjson
import redis

from fairqued.connection import Connection
from fairqued.doctor.fsck import findings
from fairqued.doctor.snapshot import Snapshot, read_snapshot
from fairqued.record import FENCE_FIELD, HEADER, Record, reason_number
from fairqued.state import Priority, Reason, TaskState
from fairqued.store import Ended, Finished, NewTask, Store, Tick
from tests.support.simclock import CLOCK_KEY, Mutation, SimulatedClock, simulated_scripts

LEASE_US, SILENCE_US = 15_000_000, 5_000_000
FOREVER_US, DEDUP_US, DEDUP_OWN_US = 10**15, 600_000_000, 60_000_000


class NewTaskOptions(TypedDict, total=False):
    """What a new task may say besides its id."""

    user: str
    queue: str
    priority: Priority
    due: str
    has_own_id: bool
    spec: bytes


def new_task(task_id: str, **options: Unpack[NewTaskOptions]) -> NewTask:
    """A task of alice in the queue `default`, unless said otherwise."""
    return NewTask(
        task_id=task_id,
        user_id=options.get("user", "alice"),
        queue=options.get("queue", "default"),
        priority=int(options.get("priority", Priority.NORMAL)),
        due=options.get("due", ""),
        has_own_id=options.get("has_own_id", False),
        spec=options.get("spec", b'{"func":"tests:nothing"}'),
    )


def limits(**own: Any) -> bytes:
    """Limits of a user as a daemon's configuration gives them."""
    return orjson.dumps({name: {"value": value, "origin": "yaml"} for name, value in own.items()})


class World:
    """One namespace on a running server."""

    make_store: ClassVar[type[Store]] = Store
    """Another one is put here to run tests as Redis users with few rights."""

    def __init__(self, url: str, namespace: str, *mutations: Mutation) -> None:
        self.namespace = namespace
        self.connection = Connection(url)
        scripts = simulated_scripts(*mutations)
        self.store = self.make_store(self.connection, namespace, scripts)
        # Where the server does not know one script of a pipeline, those behind it run first: here all are known.
        for script in scripts.values():
            self.client.script_load(script.text)
        self.clock = SimulatedClock(self.client, namespace)
        self._nonces = itertools.count(1)

    @property
    def client(self) -> redis.Redis:
        """Plain commands."""
        return self.connection.client

    def command(self, *words: str | float | bytes) -> Any:
        """Send a plain command as it stands."""
        client: Any = self.client
        return client.execute_command(*words)

    def close(self) -> None:
        self.connection.close()

    # Clients

    def nonce(self) -> bytes:
        """A nonce that no other call had."""
        return next(self._nonces).to_bytes(8, "big")

    def push(self, *task_ids: str, **options: Unpack[NewTaskOptions]) -> list[str]:
        """Enqueue tasks in one call, refusing duplicates."""
        return self.store.push(self.nonce(), "raise", [new_task(task_id, **options) for task_id in task_ids])

    def record(self, task_id: str) -> Record:
        """The record of a task that exists."""
        record = self.store.read(task_id)
        assert record is not None, f"task {task_id} does not exist"
        return record

    def state(self, task_id: str) -> TaskState:
        return self.record(task_id).state

    # Workers

    def worker(self, name: str = "w", lease_us: int = LEASE_US) -> SimulatedWorker:
        """A worker, registered."""
        self.store.register(name, lease_us, b"{}", {})
        return SimulatedWorker(self, name)

    # Masters

    def tick(
        self, *living: str, queues: Sequence[str] = ("default",), lease_us: int = LEASE_US, most: int = 500
    ) -> Tick:
        return self.store.tick(lease_us, SILENCE_US, living, queues, most)

    def trim(
        self,
        *,
        finished: tuple[int, int] = (FOREVER_US, FOREVER_US),
        failed: tuple[int, int] = (FOREVER_US, FOREVER_US),
        most: int = 500,
    ) -> tuple[int, int]:
        """Drop what is older than the age, or beyond the count."""
        return self.store.trim(finished, failed, DEDUP_US, DEDUP_OWN_US, most)

    def limit(self, users: Mapping[str, bytes], **meta: Any) -> None:
        """Apply `limits` of users, instead of all former ones, and settings of the namespace."""
        self.store.configure(self.nonce().hex(), meta, users)

    # Inspection

    def snapshot(self) -> Snapshot:
        return read_snapshot(self.client, self.namespace, without={CLOCK_KEY})

    def fsck(self) -> list[str]:
        return findings(self.snapshot())

    def key_names(self) -> set[str]:
        """The names of all keys, without their prefix."""
        return set(self.snapshot().types)

    def key(self, *parts: str) -> str:
        return self.store.keys.of(*parts)


class SimulatedWorker:
    """A worker that numbers its claims and remembers the fences it was given."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.last_claim = 0
        self.fences: dict[str, int] = {}

    def pop(self, most: int = 1, queues: Sequence[str] = ("default",), claim: int | None = None) -> list[str]:
        """Start tasks: their ids in order. Without a number it is the next claim."""
        self.last_claim = self.last_claim + 1 if claim is None else claim
        popped = self.world.store.pop(self.name, self.last_claim, most, queues)
        self.fences |= {task_id: HEADER.unpack_from(raw)[FENCE_FIELD] for task_id, raw in popped.tasks}
        return [task_id for task_id, _ in popped.tasks]

    def run_slots(self, slots: int, rounds: int) -> list[str]:
        """Run tasks of a second on some slots: the order of their starts."""
        started = []
        for _ in range(rounds):
            running = self.pop(slots)
            self.world.clock.advance(1)
            self.finish(*running)
            started += running
        return started

    def finish(self, *task_ids: str, result: bytes = b"") -> list[str]:
        """Complete tasks with the fences given by pop: a status for each."""
        return self._complete([Finished(task_id, self.fences[task_id], result, 60_000) for task_id in task_ids], [])

    def fail(self, *task_ids: str, reason: Reason = Reason.ERROR, error: bytes = b"{}") -> list[str]:
        """Fail tasks for good."""
        return self._end(task_ids, "fail", reason_number(reason), error)

    def retry(self, *task_ids: str, delay_us: int = 0, error: bytes = b"{}") -> list[str]:
        """End attempts that are to be repeated."""
        return self._end(task_ids, "retry", delay_us, error)

    def hand_back(self, *task_ids: str, delay_us: int = 0) -> list[str]:
        """Give back tasks without code for them."""
        return self._end(task_ids, "hand_back", delay_us, b"{}")

    def heartbeat(self, *held: str, claim: int | None = None) -> list[tuple[str, str]]:
        """Renew the lease: orders for the tasks held."""
        fences = {task_id: self.fences[task_id] for task_id in held}
        return self.world.store.heartbeat(self.name, LEASE_US, self.last_claim if claim is None else claim, fences)

    def _end(self, task_ids: Iterable[str], what: str, number: int, error: bytes) -> list[str]:
        return self._complete([], [Ended(task_id, self.fences[task_id], what, number, error) for task_id in task_ids])

    def _complete(self, finished: Sequence[Finished], ended: Sequence[Ended]) -> list[str]:
        answer = self.world.store.exchange(self.name, finished, ended, None, 0, ())
        return [status for _, status in answer.statuses]
