"""What is done to fairqued in a chaos run, and when: all of it follows from the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Target(StrEnum):
    """Which of the two daemons is struck: the master of the steady one lives through it all, so that leaks show."""

    STEADY = "steady"
    FRAIL = "frail"


BOTH, FRAIL = (Target.STEADY, Target.FRAIL), (Target.FRAIL,)


@dataclass(frozen=True)
class Kind:
    """One thing that can be done: how often on average, to whom, and for how long."""

    every_seconds: float
    targets: Sequence[Target] = BOTH
    lasts: tuple[float, float] = (0.0, 0.0)


KINDS = {
    "kill a worker": Kind(2),
    "kill all workers": Kind(25),
    "freeze a worker": Kind(12, lasts=(0.2, 7)),
    "kill a master": Kind(20, FRAIL, lasts=(0, 3)),
    "kill a daemon": Kind(20, FRAIL, lasts=(0, 8)),
    "stop a daemon": Kind(30, FRAIL, lasts=(0, 1)),
    "freeze a master": Kind(20, lasts=(0.5, 8)),
    "freeze a daemon": Kind(18, lasts=(0.5, 9)),
    "cut a daemon off": Kind(15, lasts=(0.5, 10)),
    "reload": Kind(10),
    "kill Redis": Kind(20, lasts=(0, 3)),
    "freeze Redis": Kind(25, lasts=(0.3, 4)),
    "change the weather": Kind(1),
    "cut connections": Kind(5),
    "flush scripts": Kind(6),
}
"""Things that last are undone when their time is over: the dead are started again, the frozen go on."""


@dataclass(frozen=True)
class Blow:
    """Something that is done at a time, in seconds from the start; `chance` (0 to 1) chooses what is left to choose."""

    at: float
    kind: str
    target: Target
    lasts: float
    chance: float


def plan(seed: int, seconds: float) -> list[Blow]:
    """Every blow of a run, in order. No kind depends on another: each has a source of chance of its own."""
    return sorted(
        (blow for kind in KINDS for blow in _blows(kind, random.Random(f"{seed} {kind}"), seconds)),
        key=lambda blow: blow.at,
    )


def _blows(name: str, chance: random.Random, seconds: float) -> Iterator[Blow]:
    """The first one comes early, so that a short run has some of each kind."""
    kind = KINDS[name]
    at = chance.uniform(0, kind.every_seconds)
    while at < seconds:
        yield Blow(at, name, chance.choice(kind.targets), chance.uniform(*kind.lasts), chance.random())
        at += chance.uniform(0.5, 1.5) * kind.every_seconds
