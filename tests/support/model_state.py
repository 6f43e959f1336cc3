"""What the reference model knows, and the rules that several scripts share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fairqued.errors import WorkerGone
from fairqued.keys import base_queue, hidden_queue
from fairqued.record import reason_number
from fairqued.state import Priority, Reason, TaskState
from fairqued.store import Ended, NewTask
from tests.support.fair_model import ESTIMATE_CAP_US, Account, Domain

HEAD_STARTS_US = (-600_000_000, -120_000_000, 0, 120_000_000, 600_000_000)
DEAD_FOR_US = 3_600_000_000
MOST_LOSSES, MOST_SUSPICION = 10, 2
LOST_ERROR = b'{"type":"WorkerLost","message":"the workers that ran it were lost 10 times"}'

Place = tuple[str, str]
"""A queue and a user. An account stands at the place of the base queue, for the hidden one beside it too."""


@dataclass
class ModelTask:
    """A task as far as scripts care."""

    new: NewTask
    nonce: bytes
    due: float
    state: TaskState
    life: int
    fence: int = 0
    settled: int = 0
    attempts: int = 0
    failures: int = 0
    suspicion: int = 0
    crashes: int = 0
    losses: int = 0
    is_hidden: bool = False
    cancel_asked: bool = False
    reason: Reason | None = None
    worker: str = ""
    claim: int = 0
    started_at: float = 0.0
    ended_at: float = 0.0
    error: bytes = b""

    @property
    def task_id(self) -> str:
        return self.new.task_id

    @property
    def waits_in(self) -> str:
        return hidden_queue(self.new.queue) if self.is_hidden else self.new.queue

    @property
    def place(self) -> Place:
        return self.waits_in, self.new.user_id

    @property
    def account(self) -> Place:
        return self.new.queue, self.new.user_id

    @property
    def is_critical(self) -> bool:
        return self.new.priority == Priority.CRITICAL

    @property
    def order(self) -> tuple[bool, float, bytes]:
        """Where it stands among the tasks of its user."""
        score = self.due if self.is_critical else self.due - HEAD_STARTS_US[self.new.priority]
        return not self.is_critical, score, self.task_id.encode()


@dataclass
class ModelWorker:
    """A registered worker."""

    handle: int
    claim: int = 0


@dataclass(frozen=True)
class Terms:
    """What a master says about a death besides its reason."""

    max_crashes: int = 0
    error: bytes = b""
    wills: Sequence[Ended] = ()


@dataclass
class Limits:
    """What a user may do."""

    weight: float = 1.0
    max_running: int = 0
    paused: bool = False

    def allow(self, running: int) -> bool:
        return not self.paused and (self.max_running == 0 or running < self.max_running)


@dataclass
class ModelState:
    """One namespace. Times are microseconds."""

    now: float
    tasks: dict[str, ModelTask] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)
    tombstones: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    spent: set[tuple[str, bytes]] = field(default_factory=set)
    refused: set[tuple[str, bytes]] = field(default_factory=set)
    """Nonces of calls that a later one overtook, by task."""
    workers: dict[str, ModelWorker] = field(default_factory=dict)
    leases: dict[str, float] = field(default_factory=dict)
    dead: dict[str, float] = field(default_factory=dict)
    handles: int = 0
    ticked: float | None = None
    accounts: dict[Place, Account] = field(default_factory=dict)
    domains: dict[str, Domain] = field(default_factory=dict)
    parked: set[Place] = field(default_factory=set)
    digest: str = ""
    lives: int = 0
    defaults: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, dict[str, Any]] = field(default_factory=dict)
    weights: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """The largest that a user had before the present one."""
    opened: set[Place] = field(default_factory=set)
    served: list[str] = field(default_factory=list)
    """What the next pop is said to have answered."""

    def held(self, worker: str) -> list[ModelTask]:
        """STARTED tasks of a worker by claim."""
        held = [t for t in self.tasks.values() if t.state is TaskState.STARTED and t.worker == worker]
        return sorted(held, key=lambda task: (task.claim, task.task_id.encode()))

    def limits_of(self, user: str) -> Limits:
        own = self.limits.get(user, {})
        return Limits(
            weight=float(own.get("weight", self.defaults.get("weight", 1))),
            max_running=int(own.get("max_running", self.defaults.get("max_running", 0))),
            paused=bool(own.get("paused", False)),
        )

    def _registered(self, worker: str) -> ModelWorker:
        if worker not in self.workers:
            raise WorkerGone
        return self.workers[worker]

    def _waiting(self, place: Place) -> list[ModelTask]:
        return [t for t in self.tasks.values() if t.state is TaskState.QUEUED and t.place == place]

    def _has_waiting(self, account: Place) -> bool:
        return any(t.state is TaskState.QUEUED and t.account == account for t in self.tasks.values())

    def running_in(self, account: Place) -> int:
        return sum(task.state is TaskState.STARTED and task.account == account for task in self.tasks.values())

    def _may_run(self, user: str) -> bool:
        running = sum(t.state is TaskState.STARTED and t.new.user_id == user for t in self.tasks.values())
        return self.limits_of(user).allow(running)

    def _queue(self, task: ModelTask) -> None:
        account = self._account(task.account)
        if not self._has_waiting(task.account):
            account.v = max(account.v, self._domain(task.new.queue).clock)
        task.state, task.worker = TaskState.QUEUED, ""

    def _take_out(self, task: ModelTask) -> None:
        if task.state is TaskState.QUEUED:
            self._account(task.account)
        task.state = TaskState.CANCELLED
        if not self._waiting(task.place):
            self.parked.discard(task.place)

    def _end(self, task: ModelTask, state: TaskState, reason: Reason | None = None) -> None:
        task.state, task.reason, task.worker, task.ended_at = state, reason, "", self.now

    def _stop(self, task: ModelTask) -> None:
        self._account(task.account).stop(self.now - task.started_at)

    def _release(self, task: ModelTask, why: str, terms: Terms | None = None) -> None:
        self._stop(task)
        task.fence += 1
        match why:
            case "drain":
                task.attempts = max(0, task.attempts - 1)
            case "death":
                task.suspicion += 1
                task.is_hidden = task.suspicion >= MOST_SUSPICION
            case "crash":
                task.crashes += 1
            case "lost":
                task.losses += 1
        if task.cancel_asked:
            self._end(task, TaskState.CANCELLED)
        elif why == "crash" and terms and task.crashes >= terms.max_crashes:
            self._end(task, TaskState.FAILED, Reason.POISONED)
            task.error = terms.error
        elif task.losses >= MOST_LOSSES:
            self._end(task, TaskState.FAILED, Reason.LOST)
            task.error = LOST_ERROR
        else:
            self._queue(task)

    def _settle(self, task: ModelTask) -> None:
        self._stop(task)
        task.settled, task.suspicion, task.is_hidden = task.fence, 0, False

    def _fail(self, task: ModelTask, ended: Ended) -> None:
        self._settle(task)
        task.error = ended.error
        if task.cancel_asked:
            self._end(task, TaskState.CANCELLED)
        elif ended.what == "fail":
            task.failures += 1
            self._end(task, TaskState.FAILED, next(r for r in Reason if reason_number(r) == ended.number))
        else:
            task.attempts -= ended.what == "hand_back"
            task.failures += ended.what == "retry"
            task.state, task.worker, task.due = TaskState.SCHEDULED, "", self.now + ended.number

    def _release_worker(self, worker: str, why: str, most: int, terms: Terms | None = None) -> tuple[int, int]:
        terms = terms or Terms()
        wills = {(will.task_id, will.fence): will for will in terms.wills}
        self.workers.pop(worker, None)
        self.dead[worker] = self.now + DEAD_FOR_US
        if worker in self.leases:
            self.leases[worker] = 0.0
        held = self.held(worker)
        for task in held[:most]:
            if will := wills.get((task.task_id, task.fence)):
                self._fail(task, will)
            else:
                self._release(task, why, terms)
        if len(held) <= most:
            self.leases.pop(worker, None)
        return len(held[:most]), len(held[most:])

    def _promote_due(self, most: int) -> tuple[int, float | None]:
        scheduled = (task for task in self.tasks.values() if task.state is TaskState.SCHEDULED)
        by_due = sorted(scheduled, key=lambda task: (task.due, task.task_id.encode()))
        due = [task for task in by_due if task.due <= self.now][:most]
        for task in due:
            self._queue(task)
        if len(due) == most:
            return most, 0.0
        left = by_due[len(due) :]
        return len(due), (left[0].due - self.now) / 1e6 if left else None

    # Fairness

    def _domain(self, queue: str) -> Domain:
        return self.domains.setdefault(queue, Domain())

    def _account(self, place: Place) -> Account:
        """The account, accrued to now."""
        queue, user = place
        self._domain(queue)
        assert queue == base_queue(queue), place
        account = self.accounts.setdefault(place, Account(touched=self.now))
        account.accrue(self.now, self.running_in(place), self.limits_of(user).weight)
        self.opened.add(place)
        return account

    def _unpark_who_may_run(self) -> None:
        for user in {user for _, user in self.opened}:
            if self._may_run(user):
                self._unpark(user)

    def _unpark(self, user: str) -> None:
        weight = self.limits_of(user).weight
        for place in [place for place in self.parked if place[1] == user]:
            domain = base_queue(place[0])
            account = self._account((domain, user))
            lag = min(account.estimate, ESTIMATE_CAP_US) / weight
            account.v = max(account.v, self._domain(domain).clock - lag)
            self.parked.remove(place)

    def _places(self) -> set[Place]:
        return {task.place for task in self.tasks.values() if task.state is TaskState.QUEUED}

    def _is_idle(self, place: Place) -> bool:
        return not self.running_in(place) and not self._has_waiting(place)

    def _flush(self) -> None:
        """What each script does at its end: clocks of domains that fell idle, users that can be forgotten."""
        self.parked &= self._places()
        opened, self.opened = self.opened, set()
        for queue, domain in self.domains.items():
            places = [place for place in self.accounts if place[0] == queue]
            domain.largest = max([domain.largest, *(self.accounts[place].v for place in places)])
            if all(self._is_idle(place) for place in places):
                domain.clock = max(domain.clock, domain.largest)
        self._forget(opened)

    def _forget_idle(self) -> None:
        self._forget(self.accounts)
        for queue in [queue for queue in self.domains if not any(place[0] == queue for place in self.accounts)]:
            del self.domains[queue]

    def _forget(self, places: Iterable[Place]) -> None:
        for place in list(places):
            if self._is_idle(place) and self.accounts[place].v <= self._domain(place[0]).clock:
                del self.accounts[place]
