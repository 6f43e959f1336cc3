"""Section 7 of the design in a few lines of Python: what a user's account does, in microseconds of slot time.

`Account` and `Domain` are what the Lua scripts have to agree with; `Oracle` chooses between users by them, and
`simulate` runs any chooser on simulated slots.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

FIRST_ESTIMATE_US, ESTIMATE_CAP_US, LEAST_CHARGE_US = 10_000.0, 1_000_000.0, 1_000.0
DEFAULT_LEAD_US = 10_000_000.0


@dataclass
class Account:
    """One user in one domain."""

    touched: float
    v: float = 0.0
    deposit: float = 0.0
    estimate: float = FIRST_ESTIMATE_US

    def accrue(self, now: float, running: int, weight: float) -> None:
        """Charge what ran since the last touch: out of the deposit first, the rest to V."""
        used = running * max(0.0, now - self.touched)
        covered = min(self.deposit, used)
        self.deposit -= covered
        self.v += (used - covered) / weight
        self.touched = now

    def start(self, running: int, weight: float) -> None:
        """Top the deposit up for one task more than are running; a task costs at least 1 ms."""
        wanted = min(self.estimate, ESTIMATE_CAP_US) * (running + 1)
        self.v += max(LEAST_CHARGE_US, wanted - self.deposit) / weight
        self.deposit = max(self.deposit, wanted)

    def stop(self, took: float) -> None:
        """Learn from a task that ended."""
        self.estimate = 0.8 * self.estimate + 0.2 * max(0.0, took)

    def rank(self, weight: float, lead: float) -> float:
        """Where the user stands: V, less its lead."""
        return self.v - lead / weight


@dataclass
class Domain:
    """The queues in which users share worker time."""

    clock: float = 0.0
    largest: float = 0.0


@dataclass(frozen=True)
class Tenant:
    """A user that always has work: its weight, and how long each of its tasks takes, in seconds."""

    weight: float
    duration: Callable[[random.Random], float]
    arrives: float = 0.0

    def durations(self, seed: int) -> Iterator[float]:
        """The same durations for each chooser: whole milliseconds, at least one."""
        rng = random.Random(seed)
        while True:
            yield max(0.001, round(self.duration(rng), 3))


class Chooser(Protocol):
    """Decides who gets free slots. Times are seconds."""

    def arrive(self, user: str, now: float) -> None:
        """A user is here, with work for ever."""

    def exchange(self, ended: Sequence[tuple[str, float]], free: int, now: float) -> Sequence[str]:
        """Tasks ended (user, time of the start); the users who get the free slots."""


class Oracle:
    """The reference: the user of smallest V, accrued to now."""

    def __init__(self, tenants: Mapping[str, Tenant]) -> None:
        self._tenants = tenants
        self._accounts: dict[str, Account] = {}
        self._running = dict.fromkeys(tenants, 0)
        self._domain = Domain()

    def arrive(self, user: str, now: float) -> None:
        self._accounts[user] = Account(touched=now * 1e6, v=self._domain.clock)

    def exchange(self, ended: Sequence[tuple[str, float]], free: int, now: float) -> Sequence[str]:
        for user, since in ended:
            self._accrued(user, now).stop((now - since) * 1e6)
            self._running[user] -= 1
        return [self._start(now) for _ in range(free)] if self._accounts else []

    def _start(self, now: float) -> str:
        user = min(self._accounts, key=lambda user: self._accrued(user, now).v)
        account = self._accounts[user]
        self._domain.clock = max(self._domain.clock, account.v)
        account.start(self._running[user], self._tenants[user].weight)
        self._running[user] += 1
        return user

    def _accrued(self, user: str, now: float) -> Account:
        account = self._accounts[user]
        account.accrue(now * 1e6, self._running[user], self._tenants[user].weight)
        return account


@dataclass
class Shares:
    """What each user received: slot-seconds at the end, and the worst that can be said about the way there."""

    tenants: Mapping[str, Tenant]
    slot_seconds: dict[str, float]
    most_slots: dict[str, int]
    longest: dict[str, float]
    gaps: dict[tuple[str, str], float] = field(default_factory=dict)

    def per_weight(self) -> list[float]:
        return [got / self.tenants[user].weight for user, got in self.slot_seconds.items()]

    def jain(self) -> float:
        """Jain's index of slot-seconds per weight: 1 is perfectly fair."""
        shares = self.per_weight()
        return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))

    def bound(self, one: str, other: str) -> float:
        """The bound of section 7 for two users."""
        cap = ESTIMATE_CAP_US / 1e6
        return sum(
            (self.most_slots[user] * (self.longest[user] + cap) + cap) / self.tenants[user].weight
            for user in (one, other)
        )


@dataclass
class _Running:
    user: str
    since: float
    took: float


class _Simulation:
    def __init__(self, tenants: Mapping[str, Tenant], slots: int, seed: int) -> None:
        self.tenants, self.slots = tenants, slots
        self.shares = Shares(
            tenants, dict.fromkeys(tenants, 0.0), dict.fromkeys(tenants, 0), dict.fromkeys(tenants, 0.0)
        )
        self._durations = {user: tenant.durations(seed + i) for i, (user, tenant) in enumerate(tenants.items())}
        self._running: dict[int, _Running] = {}
        self._number = itertools.count()
        self._ends: list[tuple[float, int]] = []
        self._extremes: dict[tuple[str, str], tuple[float, float]] = {}

    def run(self, chooser: Chooser, until: float) -> Shares:
        arrivals = sorted((tenant.arrives, user) for user, tenant in self.tenants.items())
        here: set[str] = set()
        for now in iter(lambda: self._next_time(arrivals), None):
            if now > until:
                break
            while arrivals and arrivals[0][0] <= now:
                here.add(arrivals[0][1])
                chooser.arrive(arrivals.pop(0)[1], now)
            self._step(chooser, now)
            if len(here) == len(self.tenants):
                self._measure(now)
        self.shares.slot_seconds = {user: self._received(user, until) for user in self.tenants}
        self.shares.gaps = {pair: high - low for pair, (low, high) in self._extremes.items()}
        return self.shares

    def _next_time(self, arrivals: Sequence[tuple[float, str]]) -> float | None:
        times = [each[0][0] for each in (arrivals, self._ends) if each]
        return min(times) if times else None

    def _step(self, chooser: Chooser, now: float) -> None:
        ended = []
        while self._ends and self._ends[0][0] <= now:
            task = self._running.pop(heapq.heappop(self._ends)[1])
            self.shares.slot_seconds[task.user] += task.took
            ended.append((task.user, task.since))
        for user in chooser.exchange(ended, self.slots - len(self._running), now):
            self._start(user, now)

    def _start(self, user: str, now: float) -> None:
        took, number, shares = next(self._durations[user]), next(self._number), self.shares
        self._running[number] = _Running(user, now, took)
        heapq.heappush(self._ends, (round(now + took, 3), number))
        held = sum(task.user == user for task in self._running.values())
        shares.most_slots[user] = max(shares.most_slots[user], held)
        shares.longest[user] = max(shares.longest[user], took)

    def _received(self, user: str, now: float) -> float:
        return self.shares.slot_seconds[user] + sum(
            now - task.since for task in self._running.values() if task.user == user
        )

    def _measure(self, now: float) -> None:
        received = {user: self._received(user, now) / tenant.weight for user, tenant in self.tenants.items()}
        for one, other in itertools.combinations(self.tenants, 2):
            gap = received[one] - received[other]
            low, high = self._extremes.get((one, other), (gap, gap))
            self._extremes[one, other] = min(low, gap), max(high, gap)


def simulate(chooser: Chooser, tenants: Mapping[str, Tenant], slots: int, until: float, seed: int) -> Shares:
    """Run users that always have work on a number of slots, until a time in seconds."""
    return _Simulation(tenants, slots, seed).run(chooser, until)
