"""What daemons live through with their Redis. It takes long and hardly any CPU: many courses are played at once."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import redis

from fairqued import NotAllowed, QueueUnavailable
from fairqued.connection import make_client
from fairqued.doctor.snapshot import read_snapshot
from fairqued.keys import Keys
from tests.support.daemon import LATE
from tests.support.patient import Patient
from tests.support.process_tasks import fail_once, noop, pass_on, text, work
from tests.support.proxy import Faults
from tests.support.wait import wait_until

LEASE_SECONDS = 4


class Course(ABC):
    """What one daemon lives through, and what was seen of it."""

    processes: ClassVar[int] = 1
    threads: ClassVar[int] = 2
    settings: ClassVar[Mapping[str, Any]] = {}
    options: ClassVar[Sequence[str]] = ()

    def __init__(self) -> None:
        pools = [{"name": "main", "processes": self.processes, "threads": self.threads}]
        worker = {"lease_seconds": LEASE_SECONDS, "heartbeat_seconds": 1}
        self.patient = Patient({"pools": pools, "worker": worker, **self.settings}, self.options)

    def play(self) -> None:
        """All of it. An error comes with the end of the daemon's log."""
        daemon = self.patient.daemon.start()
        try:
            daemon.wait_until_ready()
            self.pids = self.patient.processes()
            self.run()
        except Exception as error:
            error.add_note(daemon.last_words())
            raise

    @abstractmethod
    def run(self) -> None:
        """What happens to a daemon that is ready."""


# Outages


class Outages(Course):
    """Redis is away for these times, one after the other."""

    how: ClassVar[str]
    seconds: ClassVar[Sequence[float]]

    def __init__(self) -> None:
        super().__init__()
        self.resumed_after: list[float] = []
        self.delivered_after: list[float] = []
        self.accepted: list[str] = []

    def run(self) -> None:
        for number, seconds in enumerate(self.seconds):
            self._suffer(number, seconds)
        self.patient.wait_until_all_are_back()

    def _suffer(self, number: int, seconds: float) -> None:
        """One task ends while Redis is away, one lasts longer, and one is enqueued as soon as Redis is back."""
        daemon = self.patient.daemon
        ending, lasting = (self.patient.start_holding(f"{name} {number}") for name in ("ending", "lasting"))
        bring_back, began = self.patient.go_away(self.how), time.monotonic()
        daemon.open_gate(f"ending {number}")
        wait_until(lambda: ending.task_id in daemon.ledger.by_task(), LATE, "a task ends meanwhile")
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        bring_back()
        back_at = time.monotonic()
        self.resumed_after.append(self.patient.seconds_until_it_works())
        wait_until(lambda: ending.state().is_final, LATE, "its end is delivered")
        self.delivered_after.append(time.monotonic() - back_at)
        daemon.open_gate(f"lasting {number}")
        for handle in (ending, lasting):
            assert handle.result(LATE) in self.pids
            assert handle.info().attempts == 1
        self.accepted += [ending.task_id, lasting.task_id]


class Kill(Outages):
    """The server is killed, and started again."""

    how, seconds, processes = "kill", (0.5, 20), 2


class Freeze(Outages):
    """The server stands still, its connections stay open."""

    how, seconds, processes = "freeze", (2, 6, 5), 2


class Refusal(Outages):
    """Connections are closed and refused."""

    how, seconds = "refusal", (5, 0.5, 2, 6)


class BlackHole(Outages):
    """Nothing arrives and nothing comes; then everybody is told that the connections are gone."""

    how, seconds = "black hole", (20, 0.5)


class SilentBlackHole(Outages):
    """As a firewall that forgot its connections: they stay dead, and nobody is told."""

    how = "silent black hole"
    seconds: ClassVar[Sequence[float]] = (0.5, 2, 6, 5)


class IdleBlackHole(SilentBlackHole):
    """The same, while there is nothing to do: only the bell can tell."""

    settings: ClassVar[Mapping[str, Any]] = {"worker": {"lease_seconds": 15, "heartbeat_seconds": 3}}
    seconds = (0.2, 0.5, 1, 2, 3)

    def _suffer(self, _number: int, seconds: float) -> None:
        bring_back = self.patient.go_away(self.how)
        time.sleep(seconds)
        bring_back()
        self.resumed_after.append(self.patient.seconds_until_it_works())


# A Redis that answers, but does not work


@contextmanager
def busy(patient: Patient) -> Iterator[None]:
    """A script runs for ever."""
    with ThreadPoolExecutor(1) as thread:
        endless = thread.submit(patient.command, "EVAL", "while true do end", 0)
        yield
        patient.command("SCRIPT KILL")
        assert isinstance(endless.exception(), redis.ResponseError)


@contextmanager
def read_only(patient: Patient) -> Iterator[None]:
    """The server has become a replica."""
    patient.command("REPLICAOF", "127.0.0.1", "1")
    yield
    patient.command("REPLICAOF", "NO", "ONE")


@contextmanager
def wants_password(patient: Patient) -> Iterator[None]:
    """A password was set, and every connection is made anew."""
    with administrator(patient) as admin:
        admin("CONFIG", "SET", "requirepass", "secret")
        admin("CLIENT", "KILL", "TYPE", "normal")
        yield
        admin("CONFIG", "SET", "requirepass", "")


@contextmanager
def denies_rights(patient: Patient) -> Iterator[None]:
    """The user may run no scripts any more."""
    patient.command("ACL", "SETUSER", "default", "-@scripting")
    yield
    patient.command("ACL", "SETUSER", "default", "+@scripting")


@contextmanager
def has_too_many_clients(patient: Patient) -> Iterator[None]:
    """No new connection is let in, and the old ones are closed."""
    with administrator(patient) as admin:
        admin("CONFIG", "SET", "maxclients", 1)
        admin("CLIENT", "KILL", "TYPE", "normal")
        yield
        admin("CONFIG", "SET", "maxclients", 1000)


@contextmanager
def pauses(patient: Patient) -> Iterator[None]:
    """Every client is made to wait."""
    over = time.monotonic() + 5
    patient.command("CLIENT", "PAUSE", 5000)
    yield
    time.sleep(max(0.0, over - time.monotonic()))


@contextmanager
def loads(patient: Patient) -> Iterator[None]:
    """The server was killed, and is slow to load its data."""
    with make_client(patient.server.url, LATE) as client:
        for number in range(100):
            client.set(f"filler {number}", os.urandom(2000))
        client.bgrewriteaof()
        wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], LATE, "its file is rewritten")
    patient.server.kill()
    patient.server.launch("--key-load-delay", "30000", "--loading-process-events-interval-bytes", "1024")
    yield
    patient.server.wait_until_it_answers()
    patient.command("DEL", *(f"filler {number}" for number in range(100)))


@contextmanager
def administrator(patient: Patient) -> Iterator[Callable[..., Any]]:
    """A connection that stays open whatever happens to the others."""
    with make_client(patient.server.url, LATE, max_connections=1) as client:
        connection: Any = client
        yield connection.execute_command


@dataclass(frozen=True)
class Illness:
    """One thing that may be wrong with a Redis that answers."""

    of: Callable[[Patient], AbstractContextManager[None]]
    error: type[Exception]
    says: str
    """A part of the error's text."""


ILLNESSES = {
    each.of.__name__: each for each in (
        Illness(busy, QueueUnavailable, "BUSY"),
        Illness(read_only, QueueUnavailable, "read only replica"),
        Illness(wants_password, NotAllowed, "uthenticat"),
        Illness(denies_rights, NotAllowed, "permissions"),
        Illness(has_too_many_clients, QueueUnavailable, "cannot be reached"),
        Illness(pauses, QueueUnavailable, "Timeout"),
        Illness(loads, QueueUnavailable, "loading the dataset"),
    )
}  # fmt: skip


@dataclass
class Recovery:
    """What was seen of one illness."""

    refusal: str
    """What enqueue said."""
    changes: dict[int, list[str]]
    resumed_after: float
    pids: list[int]
    attempts: int
    findings: list[str]


class Illnesses(Course):
    """One illness after the other."""

    options = ("--lua-time-limit", "100")

    def __init__(self) -> None:
        super().__init__()
        self.recoveries: dict[str, Recovery] = {}

    def run(self) -> None:
        for name, illness in ILLNESSES.items():
            self.recoveries[name] = self._recover(name, illness)

    def _recover(self, gate: str, illness: Illness) -> Recovery:
        lasting = self.patient.start_holding(gate)
        lines = len(self.patient.daemon.logs())
        with illness.of(self.patient):
            wait_until(lambda: len(self.patient.changes(lines)) == len(self.pids), LATE, f"all notice {gate}")
            refusal = self._refusal(illness.error)
        resumed_after = self.patient.seconds_until_it_works()
        self.patient.wait_until_all_are_back()
        self.patient.daemon.open_gate(gate)
        assert lasting.result(LATE) in self.pids
        return Recovery(
            refusal, self.patient.changes(lines), resumed_after, self.patient.processes(), lasting.info().attempts,
            self.patient.fsck(),
        )  # fmt: skip

    def _refusal(self, kind: type[Exception]) -> str:
        """What enqueue says."""
        with closing(self.patient.queue_with_deadline(1)) as queue:
            try:
                queue.enqueue(noop.task())
            except kind as error:
                return str(error)
        return "it was accepted"


# Other harm


class Losses(Course):
    """What a Redis that works loses: connections, scripts, a marker, time, a right, and at last all its data."""

    processes = 2
    settings: ClassVar[Mapping[str, Any]] = {"users": {"bob": {"weight": 3}}}

    def run(self) -> None:
        self._lose_connections_and_scripts()
        self._lose_a_marker()
        self._lag()
        self._be_forbidden_to_wait()
        self._forget_everything()

    def _lose_connections_and_scripts(self) -> None:
        """Every 100 ms, while 200 tasks run."""
        handles = self.patient.queue.enqueue_many(work.task(0.02) for _ in range(200))
        self.worked_on = [handle.task_id for handle in handles]
        self.times_lost = 0
        while self.patient.queue.stats().counters.get("finished", 0) < len(handles):
            self.patient.command("CLIENT", "KILL", "TYPE", "normal")
            self.patient.command("SCRIPT", "FLUSH")
            self.times_lost += 1
            time.sleep(0.1)
        self.executions = self.patient.daemon.ledger.read()
        self.patient.wait_until_all_are_back()

    def _lose_a_marker(self) -> None:
        """After an outage the server still takes a dead worker's bell for a living one, and gives it the marker."""
        lines = len(self.patient.daemon.logs())
        self.patient.proxy.inject(Faults(refuse=True))
        wait_until(lambda: len(self.patient.changes(lines)) == len(self.pids), LATE, "all notice")
        bell = Keys(self.patient.daemon.namespace).of("bell", "default")
        with ThreadPoolExecutor(1) as thread:
            dead = thread.submit(self.patient.command, "BZPOPMIN", bell, LATE / 2)
            wait_until(lambda: self.patient.command("INFO", "clients")["blocked_clients"] == 1, LATE, "it is first")
            self.patient.proxy.heal()
            self.patient.wait_until_all_are_back()
            self.wait_without_marker = self.patient.seconds_until_it_works()
            self.lost_marker = dead.result()

    def _lag(self) -> None:
        """For longer than a lease every request arrives 200 ms late."""
        lasting = self.patient.start_holding("lag")
        lines, until = len(self.patient.daemon.logs()), time.monotonic() + LEASE_SECONDS + 1
        self.patient.proxy.inject(Faults(delay_seconds=0.2))
        self.waits = []
        while time.monotonic() < until:
            self.waits.append(self.patient.seconds_until_it_works())
        self.patient.proxy.heal()
        self.patient.daemon.open_gate("lag")
        self.lagged_in = lasting.result(LATE)
        self.lagging_attempts = lasting.info().attempts
        self.changes_of_lag = self.patient.changes(lines)

    def _be_forbidden_to_wait(self) -> None:
        """The bell alone is refused, for two seconds; work goes on without it."""
        lines, requests = len(self.patient.daemon.logs()), self.patient.proxy.counts.requests
        self.patient.command("ACL", "SETUSER", "default", "-bzpopmin")
        until = time.monotonic() + 2
        wait_until(lambda: len(self.patient.changes(lines)) == self.processes, LATE, "the workers tell")
        self.wait_without_bell = self.patient.seconds_until_it_works()
        time.sleep(max(0.0, until - time.monotonic()))
        self.requests_without_bell = self.patient.proxy.counts.requests - requests
        self.patient.command("ACL", "SETUSER", "default", "+bzpopmin")
        self.patient.wait_until_all_are_back()
        self.changes_without_bell = self.patient.changes(lines)

    def _forget_everything(self) -> None:
        self.reclaimed_before = self.patient.queue.stats().counters.get("reclaimed", 0)
        self.pids_before = self.patient.processes()
        self.patient.start_holding("forgotten")
        self.patient.command("FLUSHALL")
        self.resumed_after = self.patient.seconds_until_it_works()
        wait_until(self._is_replaced, LATE, "all workers are fresh ones")
        self.patient.daemon.wait_until_ready()
        self.pids_after = self.patient.processes()
        self.findings = self.patient.fsck()
        wait_until(lambda: self._limits()["weight"] == 3, LATE, "the configuration is applied again")

    def _limits(self) -> dict[str, Any]:
        with make_client(self.patient.server.url, LATE) as client:
            return read_snapshot(client, self.patient.daemon.namespace).limits_of("bob")

    def _is_replaced(self) -> bool:
        workers = set(self.patient.processes()[1:])
        return len(workers) == self.processes and not workers & set(self.pids_before)


class FullRedis(Course):
    """Memory is used up for longer than a lease, by tasks that are due later; then they run."""

    threads = 3
    settings: ClassVar[Mapping[str, Any]] = {
        "redis": {"timeout_seconds": 1}, "retention": {"finished_max": 0, "failed_max": 10},
    }  # fmt: skip

    def run(self) -> None:
        queue = self.patient.queue
        holding = [self.patient.start_holding(f"full {number}") for number in range(2)]
        for task in (text.task(200_000), fail_once.task()):
            queue.enqueue(task, delay_seconds=2)
        passing_on = queue.enqueue(pass_on.task(1, 2), delay_seconds=2)
        self._fill()
        time.sleep(LEASE_SECONDS + 1)
        self.attempts = [handle.info().attempts for handle in holding]
        self.was_full = self._is_full()
        for number in range(2):
            self.patient.daemon.open_gate(f"full {number}")
        wait_until(lambda: not self._is_full(), LATE, "there is room again")
        wait_until(self._is_drained, LATE, "all that was accepted has ended")
        self.counters = queue.stats().counters
        self.error_of_passing_on = passing_on.info().error_type
        self.findings = self.patient.fsck()

    def _fill(self) -> None:
        """Let tasks use some memory, and then no more than they leave when they end."""
        before = self._used_bytes()
        tasks = (noop.task() for _ in range(500))
        self.patient.queue.enqueue_many(tasks, delay_seconds=LEASE_SECONDS + 2, meta={"padding": "x" * 4000})
        self.patient.command("CONFIG", "SET", "maxmemory", before + 500_000)

    def _used_bytes(self) -> int:
        return int(self.patient.command("INFO", "memory")["used_memory"])

    def _is_full(self) -> bool:
        with closing(self.patient.queue_with_deadline(0.3)) as queue:
            try:
                queue.enqueue(noop.task())
            except QueueUnavailable as error:
                return "maxmemory" in str(error)
        return False

    def _is_drained(self) -> bool:
        counters = self.patient.queue.stats().counters
        return counters["enqueued"] == counters.get("finished", 0) + counters.get("failed", 0)
