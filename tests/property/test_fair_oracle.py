"""The real scripts share slot time as the reference of section 7 does, and within its bound."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

from fairqued.store import Finished
from tests.support.fair_model import Oracle, Shares, Tenant, simulate
from tests.support.servers import RedisServer
from tests.support.simclock import START_US, Mutation
from tests.support.world import World, limits, new_task

WORKER, QUEUE, BATCH, FIRST_FENCE = "w", "default", 60, 1
MIX_SLOTS, MIX_SECONDS, RANDOM_SECONDS = 8, 60.0, 80.0
ADVERSARIAL_MIX = {
    "short": Tenant(1, lambda _: 0.05),
    "long": Tenant(1, lambda _: 10.0),
    "middle": Tenant(1, lambda _: 0.5),
    "mixed": Tenant(1, lambda rng: rng.choice([0.05, 0.05, 0.05, 2.5])),
    "heavy": Tenant(3, lambda _: 0.3),
}


class RealScripts:
    """Chooses by push, pop and finish in a world with a simulated clock."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._waiting: dict[str, int] = {}
        self._running: dict[tuple[str, float], list[tuple[str, int]]] = {}
        self._numbers = itertools.count()
        self._claims = itertools.count(1)
        world.worker(WORKER)

    def arrive(self, user: str, now: float) -> None:
        self._set_clock(now)
        self._waiting[user] = 0
        self._refill()

    def exchange(self, ended: Sequence[tuple[str, float]], free: int, now: float) -> Sequence[str]:
        self._set_clock(now)
        self._refill()
        finished = [Finished(*self._running[key].pop(), b"", 1000) for key in ended]
        answer = self._world.store.exchange(WORKER, finished, [], next(self._claims), free, [QUEUE])
        assert {status for _, status in answer.statuses} <= {"finished"}
        assert answer.popped
        users = []
        for task_id, _ in answer.popped.tasks:
            user = task_id.split("-")[0]
            self._running.setdefault((user, now), []).append((task_id, FIRST_FENCE))
            self._waiting[user] -= 1
            users.append(user)
        return users

    def _refill(self) -> None:
        for user, waiting in self._waiting.items():
            if waiting < BATCH // 2:
                ids = [f"{user}-{next(self._numbers)}" for _ in range(BATCH)]
                self._world.store.push(self._world.nonce(), "raise", [new_task(task_id, user=user) for task_id in ids])
                self._waiting[user] += BATCH

    def _set_clock(self, now: float) -> None:
        self._world.clock.set(START_US + round(now * 1e6))


def run_real(world: World, tenants: Mapping[str, Tenant], slots: int, until: float, seed: int) -> Shares:
    world.limit({user: limits(weight=tenant.weight) for user, tenant in tenants.items()})
    return simulate(RealScripts(world), tenants, slots, until, seed)


@pytest.fixture
def new_world(own_server: RedisServer) -> Iterator[Callable[..., World]]:
    worlds: list[World] = []

    def make(*mutations: Mutation) -> World:
        worlds.append(World(own_server.url, f"fair-{len(worlds)}", *mutations))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


def random_case(seed: int) -> tuple[dict[str, Tenant], int]:
    """Two or three users of any weight and length of tasks, some of whom come later, and a number of slots."""
    rng = random.Random(seed)

    def length() -> Callable[[random.Random], float]:
        usual, rare, kind = 10 ** rng.uniform(-0.5, 1.3), 10 ** rng.uniform(-0.5, 1.3), rng.random()
        if kind < 0.4:
            return lambda _: usual
        if kind < 0.8:
            return lambda rng: usual if rng.random() < 0.9 else rare
        return lambda rng: rng.expovariate(1 / usual)

    users = [f"u{number}" for number in range(rng.choice([2, 2, 3]))]
    arrivals = [0.0 if rng.random() < 0.4 else round(rng.uniform(0, 20), 3) for _ in users]
    weights = [rng.choice([0.5, 1, 1, 2, 4]) for _ in users]
    tenants = {user: Tenant(w, length(), at) for user, w, at in zip(users, weights, arrivals, strict=True)}
    return tenants, rng.choice([1, 2, 4, 8])


def check_against_oracle(real: Shares, oracle: Shares) -> None:
    """The dithers may turn a tie another way, so a user may be one task ahead or behind."""
    for user, expected in oracle.slot_seconds.items():
        assert real.slot_seconds[user] == pytest.approx(expected, rel=0.02, abs=oracle.longest[user]), user


def check_bound(shares: Shares) -> None:
    for (one, other), gap in shares.gaps.items():
        assert gap <= shares.bound(one, other), (one, other)


def test_adversarial_mix_is_shared_as_the_oracle_does(new_world: Callable[[], World]) -> None:
    oracle = simulate(Oracle(ADVERSARIAL_MIX), ADVERSARIAL_MIX, MIX_SLOTS, MIX_SECONDS, seed=1)
    world = new_world()
    real = run_real(world, ADVERSARIAL_MIX, MIX_SLOTS, MIX_SECONDS, seed=1)
    assert real.jain() >= 0.99
    check_against_oracle(real, oracle)
    check_bound(real)
    assert world.fsck() == []


def test_random_mixes_are_shared_as_the_oracle_does(new_world: Callable[[], World]) -> None:
    for seed in range(30):
        tenants, slots = random_case(seed)
        oracle = simulate(Oracle(tenants), tenants, slots, RANDOM_SECONDS, seed)
        real = run_real(new_world(), tenants, slots, RANDOM_SECONDS, seed)
        check_against_oracle(real, oracle)
        check_bound(real)


@pytest.mark.parametrize(
    "mutation",
    [
        Mutation("lib/account", "    account.accrue(a)\n", "\n"),
        Mutation("lib/limit", "  limit.known[user] = l\n", "  l.weight = 1\n  limit.known[user] = l\n"),
    ],
    ids=["running tasks cost nothing", "weights do nothing"],
)
def test_unfair_scripts_are_noticed(new_world: Callable[..., World], mutation: Mutation) -> None:
    oracle = simulate(Oracle(ADVERSARIAL_MIX), ADVERSARIAL_MIX, MIX_SLOTS, MIX_SECONDS, seed=1)
    real = run_real(new_world(mutation), ADVERSARIAL_MIX, MIX_SLOTS, MIX_SECONDS, seed=1)
    with pytest.raises(AssertionError):
        check_against_oracle(real, oracle)
