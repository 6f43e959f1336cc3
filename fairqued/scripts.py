"""The Lua scripts: put together from `lua/` with their includes, named by SHA, errors mapped back to file and line.

A script is one file of `lua/`; a line `--#include lib/name` brings in `lua/lib/name.lua`, once, with what it includes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

NAMES = (
    "push", "register", "pop", "finish", "fail", "heartbeat", "reclaim", "cancel", "retry", "promote", "tick", "trim",
    "stats", "configure", "unpark",
)  # fmt: skip
_INCLUDE = re.compile(r"--#include ([\w/]+)\s*")
_ERROR_LINE = re.compile(r"user_script:\s?(\d+)")
# 6.2: "Error running script (call to f_SHA): @user_script:7: user_script:7: …"; 7.0: "… on @user_script:7."
_ERROR_FRAME = re.compile(
    r"Error running script \(call to \w+\): |@?user_script:\s?\d+:\s*| script: \w+, on @user_script:\d+\.?$"
)

ReadSource = Callable[[str], str]


@dataclass(frozen=True)
class Script:
    """One script, ready for SCRIPT LOAD."""

    name: str
    text: str
    origins: tuple[tuple[str, int], ...] = field(repr=False)

    @property
    def sha(self) -> str:
        """What EVALSHA calls it."""
        return _sha1(self.text)

    def locate(self, error: str) -> str:
        """`error` of Redis with its line number replaced by `lua/file.lua:line`."""
        lines = _ERROR_LINE.findall(error)
        if not lines:
            return f"lua/{self.name}.lua: {error}"
        line, message = int(lines[0]), _ERROR_FRAME.sub("", error).strip()
        file, number = self.origins[line - 1] if 0 < line <= len(self.origins) else (f"lua/{self.name}.lua", line)
        return f"{file}:{number}: {message}"


@cache
def _sha1(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _read_asset(name: str) -> str:
    from fairqued.assets import read_text  # noqa: PLC0415 - importlib.resources is slow to import, and needed once

    return read_text("lua", f"{name}.lua")


def assemble(name: str, read: ReadSource = _read_asset) -> Script:
    """Put the script `name` together, each include before the lines that follow it, and only once."""
    lines: list[str] = []
    origins: list[tuple[str, int]] = []
    included: set[str] = set()

    def bring_in(file: str) -> None:
        included.add(file)
        for number, line in enumerate(read(file).splitlines(), start=1):
            include = _INCLUDE.fullmatch(line)
            if include is None:
                lines.append(line)
                origins.append((f"lua/{file}.lua", number))
            elif include[1] not in included:
                bring_in(include[1])

    bring_in(name)
    return Script(name, "\n".join(lines), tuple(origins))


@cache
def load_all() -> Mapping[str, Script]:
    """All scripts by name."""
    return {name: assemble(name) for name in NAMES}
