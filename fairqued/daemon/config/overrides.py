"""Settings from the environment: `FAIRQUED__POOLS__0__THREADS=4`, and the short `FAIRQUED_REDIS_URL` and so on."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import fields

from fairqued.daemon.config.check import entry_of, group_of, table_of
from fairqued.daemon.config.reading import read_value
from fairqued.daemon.config.settings import Config
from fairqued.daemon.config.tree import Mistakes, Node, Place, join

_PREFIX = "FAIRQUED__"
_NUMBER = re.compile("[0-9]{1,6}")


class _NoPlaceError(Exception):
    """A variable's name leads to no setting."""


@dataclass(frozen=True)
class Override:
    """A setting that a variable gives: the way to it, and its value, once its full path is known."""

    variable: str
    segments: Sequence[str]
    value: Callable[[str], Node]

    def laid_over(self, tree: Node, mistakes: Mistakes) -> Node:
        """Return `tree` with the setting in it, or as it is after noting why not."""
        try:
            return self._over(tree, Config, self.segments, "")
        except _NoPlaceError as error:
            mistakes.add(Place(self.variable), "", str(error))
            return tree

    def _over(self, node: Node | None, kind: Any, segments: Sequence[str], path: str) -> Node:
        if not segments:
            return self.value(path)
        head, *rest = segments
        place = Place(self.variable) if node is None else node.place
        given = [] if node is None else node.value
        if isinstance(given, list) and (entry := entry_of(kind)) is not None:
            return Node(self._over_entry(given, entry, head, rest, path), place)
        if isinstance(given, Mapping) or node is None:
            return Node(self._over_key(given if isinstance(given, Mapping) else {}, kind, head, rest, path), place)
        raise _NoPlaceError(f"{path} is {node.shown()}: it holds no {head}")

    def _over_entry(self, given: list[Node], kind: Any, head: str, rest: list[str], path: str) -> list[Node]:
        if not _NUMBER.fullmatch(head) or int(head) > len(given):
            raise _NoPlaceError(f"expected the number of an entry of {path}, 0 to {len(given)}, found {head}")
        index = int(head)
        old = given[index] if index < len(given) else None
        return [*given[:index], self._over(old, kind, rest, join(path, index)), *given[index + 1 :]]

    def _over_key(
        self, given: Mapping[str, Node], kind: Any, head: str, rest: list[str], path: str
    ) -> Mapping[str, Node]:
        key, child_kind, default = self._child(kind, head)
        child = self._over(given.get(key, default), child_kind, rest if child_kind else [], join(path, key))
        return {**given, key: child}

    def _child(self, kind: Any, head: str) -> tuple[str, Any, Node | None]:
        """The key that a segment means, the type of its setting (None: no such setting) and its default list."""
        if (group := group_of(kind)) is None:
            table = table_of(kind)
            return head, table[1] if table else None, None
        for setting in fields(group):
            if setting.name.casefold() == head.casefold():
                return setting.name, setting.type, self._default_list(setting.default)
        return head.lower(), None, None

    def _default_list(self, default: Any) -> Node | None:
        if not isinstance(default, tuple):
            return None
        return Node.from_plain(msgspec.to_builtins(default), Place(self.variable))


def overrides(environ: Mapping[str, str], mistakes: Mistakes) -> Iterator[Override]:
    """Yield what the environment sets, in the order in which it is laid over the files."""
    if url := environ.get("FAIRQUED_REDIS_URL"):
        yield _text("FAIRQUED_REDIS_URL", ("redis", "url"), url)
    if namespace := environ.get("FAIRQUED_NAMESPACE"):
        yield _text("FAIRQUED_NAMESPACE", ("namespace",), namespace)
    if imports := environ.get("FAIRQUED_IMPORTS"):
        place = Place("FAIRQUED_IMPORTS")
        modules = [Node(name.strip(), place) for name in imports.split(",") if name.strip()]
        yield Override(place.source, ("imports",), lambda _path: Node(modules, place))
    for variable in sorted((name for name in environ if name.startswith(_PREFIX)), key=_in_order_of_entries):
        segments = variable.removeprefix(_PREFIX).split("__")
        yield Override(variable, segments, partial(read_value, environ[variable], variable, mistakes))


def _text(variable: str, segments: Sequence[str], text: str) -> Override:
    return Override(variable, segments, lambda _path: Node(text, Place(variable)))


def _in_order_of_entries(variable: str) -> str:
    """Entry 10 comes after entry 9."""
    return re.sub(r"\d+", lambda match: match[0].zfill(9), variable)
