"""The scripts with a simulated clock, and with mutations for tests that prove that tests can fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import redis

from fairqued.assets import read_text
from fairqued.keys import Keys
from fairqued.scripts import NAMES, ReadSource, Script, assemble

CLOCK_KEY = "test_clock"
START_US = 1_700_000_000_000_000
_CLOCK = f"""
local clock = {{ now = tonumber(redis.call('GET', string.sub(KEYS[1], 1, -5) .. '{CLOCK_KEY}')) }}
"""


@dataclass(frozen=True)
class Mutation:
    """One piece of a Lua file replaced by another."""

    file: str
    old: str
    new: str

    def apply(self, text: str) -> str:
        assert text.count(self.old) == 1, f"{self.old!r} is {text.count(self.old)} times in {self.file}"
        return text.replace(self.old, self.new)


def read_shipped(file: str) -> str:
    """The text of a file of `lua/`."""
    return read_text("lua", f"{file}.lua")


def mutating(read: ReadSource, *mutations: Mutation) -> ReadSource:
    """A reader that changes what another one reads."""

    def changed(file: str) -> str:
        text = read(file)
        for mutation in mutations:
            if mutation.file == file:
                text = mutation.apply(text)
        return text

    return changed


def scripts_from(read: ReadSource) -> Mapping[str, Script]:
    """Every script, put together by a reader: for `Store(…, scripts=…)`."""
    return {name: assemble(name, read) for name in NAMES}


@cache
def simulated_scripts(*mutations: Mutation) -> Mapping[str, Script]:
    """Every script, reading the time from the key `test_clock`."""
    read = mutating(read_shipped, *mutations)
    return scripts_from(lambda file: _CLOCK if file == "lib/clock" else read(file))


class SimulatedClock:
    """The time of a namespace whose scripts are `simulated_scripts`, in microseconds."""

    def __init__(self, client: redis.Redis, namespace: str, now: int = START_US) -> None:
        self._client, self._key = client, Keys(namespace).of(CLOCK_KEY)
        self.now = now
        self.set(now)

    def set(self, now: int) -> None:
        """Jump to a time."""
        self.now = now
        self._client.set(self._key, now)

    def advance(self, seconds: float) -> None:
        """Let time go on."""
        self.set(self.now + round(seconds * 1e6))
