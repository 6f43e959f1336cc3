"""What the text of `lua/` says: which functions there are, which call which, which commands they send."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from fairqued.assets import names
from fairqued.scripts import NAMES
from tests.support.simclock import read_shipped

READ_COMMANDS = {
    "EXISTS", "GET", "GETRANGE", "HEXISTS", "HGET", "HGETALL", "HKEYS", "HMGET", "HRANDFIELD", "LLEN", "LRANGE",
    "SISMEMBER", "SMEMBERS", "SRANDMEMBER", "TIME", "ZCARD", "ZCOUNT", "ZRANGE", "ZRANGEBYSCORE", "ZSCORE",
}  # fmt: skip
_COMMENT = re.compile(r"--\[\[.*?\]\]|--[^\n]*", re.DOTALL)
_COMMAND = re.compile(r"redis\.call\('(\w+)'")
_CALL = re.compile(r"\b(\w+\.\w+|\w+)\(")
_FUNCTION_START = re.compile(r"(?:local )?function ([\w.]+)\(")


@dataclass(frozen=True)
class Function:
    """A top-level function of a file, by the name that other files call it."""

    name: str
    body: str


def scripts() -> dict[str, str]:
    """The text of each script by name."""
    return {name: read_shipped(name) for name in NAMES}


@cache
def libraries() -> dict[str, str]:
    """The text of each include by name, such as `lib/key`."""
    found = [f"lib/{name.removesuffix('.lua')}" for name in names("lua", "lib")]
    return {name: read_shipped(name) for name in found}


def without_comments(text: str) -> str:
    return _COMMENT.sub("", text)


def commands(text: str) -> list[str]:
    """The Redis commands in a text, in its order."""
    return _COMMAND.findall(without_comments(text))


@cache
def functions() -> dict[str, Function]:
    """All functions of the includes: `lib.name`, and `file:name` for local ones."""
    return {each.name: each for file, text in libraries().items() for each in _functions_of(file, text)}


def _functions_of(file: str, text: str) -> list[Function]:
    found, lines = [], without_comments(text).splitlines()
    for number, line in enumerate(lines):
        if start := _FUNCTION_START.match(line):
            one_line = line.endswith(" end")
            end = number if one_line else lines.index("end", number)
            name = start[1] if "." in start[1] else f"{file}:{start[1]}"
            found.append(Function(name, _with_file_names(file, "\n".join(lines[number : end + 1]), text)))
    return found


def _with_file_names(file: str, body: str, text: str) -> str:
    """Calls of the file's local functions, by their full name."""
    for name in re.findall(r"^local function (\w+)\(", text, re.MULTILINE):
        body = re.sub(rf"(?<![\w.:]){name}\(", f"{file}:{name}(", body)
    return body


def reachable_from(text: str) -> set[str]:
    """The functions of includes that a text calls, directly or through others."""
    found: set[str] = set()
    waiting = _called_in(text)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting |= _called_in(functions()[name].body) - {name}
    return found


def _called_in(text: str) -> set[str]:
    plain = without_comments(text)
    return {name for name in functions() if re.search(rf"(?<![\w.]){re.escape(name)}\(", plain)}


def with_callees(text: str) -> str:
    """A text and the functions of includes that it reaches."""
    return "\n".join([text, *(functions()[name].body for name in sorted(reachable_from(text)))])


def write_commands(text: str) -> list[str]:
    """The commands in a text that write, in its order."""
    return [command for command in commands(text) if command not in READ_COMMANDS]
