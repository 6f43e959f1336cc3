"""The block at the top of each Lua script, parsed: what it takes, moves, answers, refuses and costs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache

from fairqued.scripts import NAMES
from tests.support.simclock import read_shipped

_BLOCK = re.compile(r"--\[\[\n(.*?)\n\]\]\n", re.DOTALL)
_SECTIONS = ("KEYS", "ARGV", "Moves:", "Returns:", "Errors:", "Cost:")
_ORDERED = ("sentence", *(name.rstrip(":") for name in _SECTIONS))


@dataclass(frozen=True)
class Contract:
    """The sections of a header by name, in their order; `sentence` is what comes before the first."""

    script: str
    sections: dict[str, str] = field(repr=False)

    @property
    def sentence(self) -> str:
        return self.sections["sentence"].partition("\n\n")[0]

    @property
    def moves(self) -> set[tuple[str, str]]:
        """Pairs of state names; `new` stands for no task."""
        text = self.sections.get("Moves", "")
        return {(before, after) for before, _, after in (move.partition(" -> ") for move in _split(text))}

    @property
    def errors(self) -> set[str]:
        return set(_split(self.sections.get("Errors", "")))

    @property
    def is_in_order(self) -> bool:
        return list(self.sections) == [name for name in _ORDERED if name in self.sections]


def _split(text: str) -> list[str]:
    return [part for part in (part.strip() for part in text.replace("\n", " ").split(",")) if part]


def parse(script: str, text: str) -> Contract:
    """The contract of a script; KeyError or AssertionError where its header is not one."""
    block = _BLOCK.match(text)
    assert block, f"{script} does not open with a block comment"
    sections, name = {"sentence": ""}, "sentence"
    for line in block[1].splitlines():
        heading = next((heading for heading in _SECTIONS if line.startswith(heading)), None)
        if heading:
            name = heading.rstrip(":")
            assert name not in sections, f"{script}: {name} is there twice"
            sections[name] = line.removeprefix(heading).strip()
        else:
            sections[name] += f"\n{line}" if sections[name] else line
    return Contract(script, {name: section.strip("\n") for name, section in sections.items()})


@cache
def contracts() -> dict[str, Contract]:
    """The contract of every script."""
    return {name: parse(name, read_shipped(name)) for name in NAMES}


@cache
def reachable_moves(*scripts: str) -> frozenset[tuple[str, str]]:
    """Every move that these scripts can make together, one after the other."""
    moves = {move for name in scripts for move in contracts()[name].moves}
    while True:
        longer = {(a, d) for a, b in moves for c, d in moves if b == c}
        if longer <= moves:
            return frozenset(moves)
        moves |= longer
