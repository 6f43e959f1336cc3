"""Settings as they were written: values with the place each came from, mistakes with theirs, and how files merge."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Final, NamedTuple

from fairqued.errors import ConfigError

_PLAIN_KEY = re.compile(r"[\w-]+")
_LONGEST_SHOWN = 60
_BEFORE_HOST = re.compile(r"^(\w+:/*)?.*@", re.DOTALL)
_PASSWORD_OPTION = re.compile(r"(?<=password=)[^&\s]*", re.IGNORECASE)


class Place(NamedTuple):
    """Where something was written: a line of a file, or an environment variable (no line)."""

    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


class Mistake(NamedTuple):
    """One thing that is wrong with the configuration."""

    place: Place
    path: str
    problem: str

    def __str__(self) -> str:
        return f"{self.place}: {self.path}: {self.problem}" if self.path else f"{self.place}: {self.problem}"


class Mistakes:
    """All mistakes found so far, to be told at once: in the order of the files, then those of the environment."""

    def __init__(self, files: Sequence[str]) -> None:
        self._rank = {file: rank for rank, file in enumerate(files)}
        self._found: list[Mistake] = []

    def add(self, place: Place, path: str, problem: str) -> None:
        """Note a mistake in the setting at `path` (empty: in the whole source)."""
        self._found.append(Mistake(place, path, problem))

    def raise_if_any(self) -> None:
        """Raise a ConfigError with one line for each mistake."""
        if self._found:
            raise ConfigError("\n".join(map(str, sorted(self._found, key=self._order))))

    def _order(self, mistake: Mistake) -> tuple[int, Place]:
        return self._rank.get(mistake.place.source, len(self._rank)), mistake.place


class Broken:
    """The value of a node whose mistake was already noted."""


BROKEN: Final = Broken()


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where it came from.

    `text` is set where the environment gave a plain scalar: it is a number or a word, as the setting wants it.
    `written` is what messages show in place of the value, where that came out of `${NAME}`.
    """

    value: "Mapping[str, Node] | list[Node] | str | float | bool | Broken | None"
    place: Place
    text: str | None = None
    written: str | None = None

    @classmethod
    def from_plain(cls, value: Any, place: Place) -> "Node":
        """The node of a value made of dicts, lists and scalars."""
        if isinstance(value, dict):
            return cls({key: cls.from_plain(each, place) for key, each in value.items()}, place)
        if isinstance(value, list | tuple):
            return cls([cls.from_plain(each, place) for each in value], place)
        return cls(value, place)

    def to_plain(self) -> Any:
        """The value made of dicts, lists and scalars alone."""
        if isinstance(self.value, Mapping):
            return {key: each.to_plain() for key, each in self.value.items()}
        if isinstance(self.value, list):
            return [each.to_plain() for each in self.value]
        return self.value

    def shown(self) -> str:
        """How a message names the value: on one line, not too long, without secrets."""
        if self.written is not None or isinstance(self.value, str):
            return quoted(masked(self.written or str(self.value)))
        if isinstance(self.value, bool):
            return str(self.value).lower()
        kinds = {NoneType: "nothing", dict: "a mapping", list: "a list"}
        return kinds.get(type(self.value), str(self.value))


def masked(text: str) -> str:
    """Return `text` without what may be a password in it: all before the host of a URL, and its password option."""
    return _PASSWORD_OPTION.sub("***", _BEFORE_HOST.sub(r"\1***@", text))


def quoted(text: str) -> str:
    """Return `text` in quotes, on one line, without its far end."""
    if len(text) > _LONGEST_SHOWN:
        text = text[:_LONGEST_SHOWN] + "…"
    return '"' + "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text) + '"'


def join(path: str, key: str | int) -> str:
    """Return the dotted path of an entry of the mapping or list at `path`."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    if not _PLAIN_KEY.fullmatch(key):
        return f"{path}[{quoted(key)}]"
    return f"{path}.{key}" if path else key


def merge(base: Node, over: Node, merged_by: Mapping[str, str], path: str = "") -> Node:
    """Return `base` with `over` laid over it: mappings merge, anything else is replaced.

    `merged_by` names the lists whose entries merge by one of their keys.
    """
    if isinstance(base.value, Mapping) and isinstance(over.value, Mapping):
        merged = dict(base.value)
        for key, node in over.value.items():
            merged[key] = merge(merged[key], node, merged_by, join(path, key)) if key in merged else node
        return Node(merged, over.place)
    if path in merged_by and isinstance(base.value, list) and isinstance(over.value, list):
        return Node(_merge_entries(base.value, over.value, merged_by[path]), over.place)
    return over


def _merge_entries(base: list[Node], over: list[Node], key: str) -> list[Node]:
    """Lay each entry over the one of the same key; entries that are new, or twice in `over`, come last."""
    merged, free = list(base), {_name(node, key): index for index, node in reversed(list(enumerate(base)))}
    for node in over:
        name = _name(node, key)
        index = free.pop(name, None) if name is not None else None
        if index is None:
            merged.append(node)
        else:
            merged[index] = merge(merged[index], node, {})
    return merged


def _name(node: Node, key: str) -> object:
    """What identifies an entry, or None."""
    if isinstance(node.value, Mapping) and key in node.value:
        name = node.value[key].value
        return name if isinstance(name, str) else None
    return None
