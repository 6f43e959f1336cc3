"""The hammer: workers that are killed and frozen at random over a network that loses and repeats, and what came of it.

Everything random comes from one seed; what the machine makes of it differs from run to run.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from fairqued.connection import Connection
from fairqued.errors import QueueUnavailable
from fairqued.keys import hidden_queue
from fairqued.queue import TaskQueue
from fairqued.store import Store
from tests.support.audit import audited_scripts
from tests.support.fate import Fate
from tests.support.hammer_nursery import Nursery
from tests.support.hammer_producer import LIMITS, QUEUES, Enqueued, Producer
from tests.support.hammer_worker import EXIT_GONE, WorkerConfig
from tests.support.proxy import Counts, Faults, FaultyProxy
from tests.support.wait import wait_until

NAMESPACE = "hammer"
WORKERS, SLOTS = 4, 4
LEASE_SECONDS, HEARTBEAT_SECONDS, TICK_SECONDS = 1.5, 0.3, 0.3
TRY_SECONDS = 0.4
KILL_EACH_SECONDS, FREEZE_EACH_SECONDS, STOP_EACH_SECONDS = 0.25, 1.5, 1.0
CUT_EACH_SECONDS, FLUSH_EACH_SECONDS = 3.0, 2.0
DRAIN_SECONDS, END_SECONDS = 90, 60
MOST_WAITING = 400
SHOWN_AT_MOST = 20

KILLED = -9
_ENDED_BY: dict[int | None, str] = {KILLED: "killed", EXIT_GONE: "had to exit", 0: "stopped"}

CALM = Faults(drop_probability=0.02, copy_probability=0.05)
STORM = Faults(drop_probability=0.3, copy_probability=0.3)
LATE = Faults(delay_seconds=1.5 * TRY_SECONDS, copy_probability=0.1)
OUTAGE = Faults(black_hole=True)
WEATHER = {CALM: 60, STORM: 25, LATE: 8, OUTAGE: 7}


@dataclass(kw_only=True)
class Forked(Fate):
    """A worker that was forked, and perhaps killed or frozen."""

    pid: int
    is_hidden: bool = False
    """Whether it serves the hidden queues, in a single slot."""
    frozen: list[tuple[float, float]] = field(default_factory=list)
    """From when until when it was frozen; the last one may have been planned for longer than the process lived."""
    is_frozen: bool = False
    exit_code: int | None = None

    def cause(self, at: float, script: str) -> str | None:
        """A death, or a lease that could not be renewed: the network alone may be the reason."""
        if not self.was_alive(at):
            return "host died" if script == "tick" else _ENDED_BY.get(self.exit_code)
        was_frozen = any(start < at < end + LEASE_SECONDS for start, end in self.frozen)
        return "frozen" if was_frozen else "cut off"

    @property
    def ended_well(self) -> bool:
        return self.exit_code == 0

    @property
    def trouble(self) -> str:
        return "" if self.exit_code in _ENDED_BY else f"ended with {self.exit_code}"


@dataclass
class Outcome:
    """All that is known at the end of a run."""

    tasks: Mapping[str, Enqueued]
    fates: Mapping[str, Fate]
    counts: Counts
    events: Mapping[str, int]
    """How often what was done to the workers."""


def judge_leases(store: Store, living: Sequence[str] = ()) -> None:
    """One tick of a master."""
    store.tick(int(LEASE_SECONDS * 1e6), int(LEASE_SECONDS * 5e5), living, most=5)


class OtherMaster(threading.Thread):
    """A master on another host, without workers and with a good network: its ticks come in time."""

    def __init__(self, store: Store) -> None:
        super().__init__(name="hammer-other-master", daemon=True)
        self._store = store
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(TICK_SECONDS):
            judge_leases(self._store)

    def stop(self) -> None:
        """Tick no more."""
        self._stopping.set()
        self.join()


class Fleet:
    """The workers and their master: forks, kills, freezes, reaps and reclaims them."""

    def __init__(self, store: Store, proxy_url: str, nursery: Nursery, logs: Path, chance: random.Random) -> None:
        self.fates: dict[str, Forked] = {}
        self._store, self._proxy_url, self._nursery, self._logs, self._random = store, proxy_url, nursery, logs, chance
        self._to_reclaim: list[str] = []

    @property
    def living(self) -> list[Forked]:
        """The workers whose process was not seen to end, frozen or not."""
        return [fate for fate in self.fates.values() if fate.exit_code is None]

    def fill(self) -> None:
        """Fork what is missing: some workers, and one for the hidden queues."""
        living = self.living
        for _ in range(WORKERS - sum(not fate.is_hidden for fate in living)):
            self._fork(QUEUES, SLOTS)
        if not any(fate.is_hidden for fate in living):
            self._fork([hidden_queue(queue) for queue in QUEUES], 1).is_hidden = True

    def _fork(self, queues: Sequence[str], slots: int) -> Forked:
        worker_id = f"w.1.{len(self.fates) + 1}"
        log = self._logs / worker_id
        config = WorkerConfig(
            self._proxy_url, NAMESPACE, list(queues), worker_id, str(log),
            slots, LEASE_SECONDS, HEARTBEAT_SECONDS, TRY_SECONDS,
        )  # fmt: skip
        self.fates[worker_id] = forked = Forked(worker_id, log, pid=self._nursery.fork(config))
        return forked

    def kill_one(self) -> None:
        """SIGKILL a worker, seldom a frozen one. Its master reclaims it at once, or died too: then its lease ends."""
        fate = self._random.choices(self.living, [0.05 if fate.is_frozen else 1.0 for fate in self.living])[0]
        os.kill(fate.pid, signal.SIGKILL)
        fate.exit_code = self._nursery.wait(fate.pid)
        fate.ended_at = time.time()
        if self._random.random() < 0.8:
            self._to_reclaim.append(fate.worker_id)

    def stop_one(self) -> None:
        """SIGTERM a worker, as in a rolling deploy."""
        os.kill(self._random.choice(self.living).pid, signal.SIGTERM)

    def freeze_one(self) -> None:
        """SIGSTOP a worker: for longer than its lease, or for a moment."""
        running = [fate for fate in self.living if not fate.is_frozen]
        if not running:
            return
        fate = self._random.choice(running)
        os.kill(fate.pid, signal.SIGSTOP)
        seconds = self._random.uniform(2.0, 3.5) if self._random.random() < 0.75 else self._random.uniform(0.1, 1.0)
        fate.frozen.append((time.time(), time.time() + seconds))
        fate.is_frozen = True

    def thaw(self, *, everyone: bool = False) -> None:
        """SIGCONT those whose time has come."""
        for fate in self.living:
            if fate.is_frozen and (everyone or time.time() >= fate.frozen[-1][1]):
                os.kill(fate.pid, signal.SIGCONT)
                fate.is_frozen = False

    def reap(self) -> None:
        """Notice workers that ended by themselves."""
        for fate in self.living:
            fate.exit_code = self._nursery.poll(fate.pid)
            if fate.exit_code is not None:
                fate.ended_at = time.time()
                self._to_reclaim.append(fate.worker_id)

    def reclaim(self) -> None:
        """Put back what dead workers held; what fails now is tried again at the next call."""
        for worker_id in tuple(self._to_reclaim):
            fate = self.fates[worker_id]
            why = "drain" if fate.exit_code == 0 else "crash" if fate.is_hidden else "death"
            while self._store.reclaim(worker_id, why, most=2)[1]:
                pass
            fate.reclaimed_at = time.time()
            self._to_reclaim.remove(worker_id)

    def tick(self) -> None:
        """Judge leases; the master vouches for some of those that run, the others have their heartbeat alone."""
        running = [fate.worker_id for fate in self.living if not fate.is_frozen and self._random.random() < 0.5]
        judge_leases(self._store, running)
        self._store.promote()

    def events(self) -> Mapping[str, int]:
        """What was done to the workers."""
        fates = self.fates.values()
        return {
            "kills": sum(fate.exit_code == KILLED for fate in fates),
            "stops": sum(fate.exit_code == 0 for fate in fates),
            "freezes": sum(len(fate.frozen) for fate in fates),
        }

    def stop(self) -> None:
        """Let all workers end in good order."""
        for fate in self.living:
            os.kill(fate.pid, signal.SIGTERM)
        wait_until(self._have_ended, END_SECONDS, "all workers end after SIGTERM")

    def _have_ended(self) -> bool:
        self.reap()
        return not self.living


class Hammer:
    """One run: `strike` for a while, then `drain`."""

    def __init__(self, direct_url: str, proxy: FaultyProxy, nursery: Nursery, logs: Path, seed: int) -> None:
        self._proxy = proxy
        self._random = random.Random(f"{seed} hammer")
        scripts = audited_scripts()
        self.direct = Store(Connection(direct_url), NAMESPACE, scripts)
        store = Store(Connection(proxy.url, timeout_seconds=2 * TRY_SECONDS), NAMESPACE, scripts)
        self.fleet = Fleet(store, proxy.url, nursery, logs, random.Random(f"{seed} fleet"))
        queue = TaskQueue(proxy.url, namespace=NAMESPACE, timeout_seconds=TRY_SECONDS)
        queue._store = Store(queue._store.connection, NAMESPACE, scripts)
        self.producer = Producer(queue, self._has_room, random.Random(f"{seed} producer"))
        self._connections = [self.direct.connection, store.connection, queue._store.connection]

    def run(self, seconds: float) -> Outcome:
        """Strike for so long, then let everything end and say what is known."""
        self._configure()
        other = OtherMaster(self.direct)
        other.start()
        self.producer.start()
        try:
            self._strike(time.monotonic() + seconds)
        finally:
            self.producer.stop()
            other.stop()
        for error in self.producer.errors:
            raise error
        self._drain()
        for connection in self._connections:
            connection.close()
        return Outcome(self.producer.tasks, self.fleet.fates, self._proxy.counts, self.fleet.events())

    def _configure(self) -> None:
        users = {
            user: orjson.dumps({name: {"value": value, "origin": "yaml"} for name, value in limits.items()})
            for user, limits in LIMITS.items()
        }
        self.direct.configure("hammer", {}, users)

    def _strike(self, until: float) -> None:
        chores: dict[Callable[[], None], Callable[[], float]] = {
            self._change_weather: lambda: self._random.uniform(0.2, 0.8),
            self.fleet.tick: lambda: TICK_SECONDS,
            self.fleet.kill_one: lambda: self._random.expovariate(1 / KILL_EACH_SECONDS),
            self.fleet.freeze_one: lambda: self._random.expovariate(1 / FREEZE_EACH_SECONDS),
            self.fleet.stop_one: lambda: self._random.expovariate(1 / STOP_EACH_SECONDS),
            self._proxy.cut: lambda: self._random.expovariate(1 / CUT_EACH_SECONDS),
            self._flush_scripts: lambda: self._random.expovariate(1 / FLUSH_EACH_SECONDS),
        }
        due = {chore: time.monotonic() + pause() for chore, pause in chores.items()}
        while time.monotonic() < until and not self.producer.errors:
            self._supervise()
            for chore, pause in chores.items():
                if time.monotonic() >= due[chore]:
                    self._attempt(chore)
                    due[chore] = time.monotonic() + pause()
            time.sleep(0.01)

    def _supervise(self) -> None:
        self.fleet.thaw()
        self.fleet.reap()
        self.fleet.fill()
        self._attempt(self.fleet.reclaim)

    @staticmethod
    def _attempt(chore: Callable[[], None]) -> None:
        try:
            chore()
        except QueueUnavailable:
            return  # as a master: the next round tries again

    def _change_weather(self) -> None:
        self._proxy.inject(self._random.choices(list(WEATHER), list(WEATHER.values()))[0])

    def _flush_scripts(self) -> None:
        self.direct.connection.call(lambda client: client.script_flush())

    def _drain(self) -> None:
        self._proxy.heal()
        self.fleet.thaw(everyone=True)
        try:
            wait_until(self._is_drained, DRAIN_SECONDS, "every task ends once the faults are over")
        except AssertionError as error:
            error.add_note("\n".join(islice(self._describe_open_tasks(), SHOWN_AT_MOST)))
            raise
        self.fleet.stop()
        self.fleet.reclaim()

    def _is_drained(self) -> bool:
        self._supervise()
        self._attempt(self.fleet.tick)
        held = {row[0].decode(): row[2] for row in self.direct.stats(0)[4]}
        dead = held.keys() - {fate.worker_id for fate in self.fleet.living}
        return not (self._count_waiting() or any(held.values()) or dead or self._proxy.counts.copies_pending)

    def _describe_open_tasks(self) -> Iterator[str]:
        for task_id, told in self.producer.tasks.items():
            record = self.direct.read(task_id)
            if record is not None and not record.state.is_final:
                yield f"{told}: {record}"

    def _has_room(self, _: int) -> bool:
        return self._count_waiting() < MOST_WAITING

    def _count_waiting(self) -> int:
        depth, scheduled = self.direct.connection.call(self._read_counts)
        return sum(map(int, depth)) + int(scheduled)

    def _read_counts(self, client: Any) -> tuple[list[bytes], int]:
        keys = self.direct.keys
        return client.hvals(keys.of("depth")), client.zcard(keys.of("scheduled"))


def names_left(store: Store) -> set[str]:
    """Drop every task, forget every user, and return the names of the keys that are left."""
    while any(store.trim((0, 0), (0, 0), 0, 0)):
        pass
    for _ in QUEUES:
        store.tick(int(LEASE_SECONDS * 1e6), 0, ())
    client, prefix = store.connection.client, store.keys.prefix
    return {key.decode().removeprefix(prefix).split(":")[0] for key in client.scan_iter(f"{prefix}*", count=1000)}
