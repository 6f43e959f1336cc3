"""Settings against the schema: a `Config`, or every mistake."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Meta, Struct, UnsetType
from msgspec.structs import FieldInfo, fields

from fairqued.daemon.config.rules import RULES
from fairqued.daemon.config.settings import MERGED_BY, Config, default_of
from fairqued.daemon.config.tree import Broken, Mistakes, Node, join, quoted
from fairqued.daemon.config.values import Check, is_file_name, is_finite

_FAILED: Any = object()
_LONGEST_GUESSED = 100


def check(tree: Node, mistakes: Mistakes) -> Config | None:
    """Return the configuration that `tree` describes, or None after noting all that is wrong with it."""
    config = _Checker(mistakes).value(tree, Config, "")
    return config if isinstance(config, Config) else None


@cache
def members(kind: Any) -> tuple[Any, ...]:
    """Return the types that a setting may have: those of a union, else the one."""
    if get_origin(kind) in (Union, UnionType):
        return tuple(each for each in get_args(kind) if each is not UnsetType)
    return (kind,)


@cache
def group_of(kind: Any) -> type[Struct] | None:
    """Return the group of settings among the types, if there is one."""
    return next((each for each in members(kind) if isinstance(each, type) and issubclass(each, Struct)), None)


@cache
def table_of(kind: Any) -> tuple[Any, Any] | None:
    """Return the types of key and value of the mapping among the types, if there is one."""
    return next((get_args(each) for each in members(kind) if get_origin(each) is dict), None)


@cache
def entry_of(kind: Any) -> Any:
    """Return the type of the entries of the list among the types, None if there is none."""
    return next((get_args(each)[0] for each in members(kind) if get_origin(each) is tuple), None)


class _Checker:
    """Walks a tree beside the types of the schema. What is wrong is noted, and stands as _FAILED."""

    def __init__(self, mistakes: Mistakes) -> None:
        self._mistakes = mistakes

    def value(self, node: Node, kind: Any, path: str) -> Any:
        """Return the value of `node` as one of `kind`."""
        if isinstance(node.value, Broken):
            return _FAILED
        if kind is Any:
            return self._anything(node, path)
        if isinstance(node.value, Mapping):
            if (group := group_of(kind)) is not None:
                return self._group(node, node.value, group, path)
            if (table := table_of(kind)) is not None:
                return self._table(node.value, table, path)
        if isinstance(node.value, list) and (entry := entry_of(kind)) is not None:
            return self._list(node.value, entry, path)
        return self._leaf(node, kind, path)

    def _group(self, node: Node, given: Mapping[str, Node], group: type[Struct], path: str) -> Any:
        known = {each.name: each for each in _fields(group)}
        for key, child in given.items():
            if key not in known:
                self._mistakes.add(child.place, join(path, key), _unknown(key, known))
        values = {name: self._setting(node, given, each, path) for name, each in known.items()}
        for rule in RULES.get(group, ()):
            needs = [values[name] for name in rule.needs]
            if _FAILED not in needs and (problem := rule.problem(*needs)):
                blamed = next((name for name in rule.needs if name in given), rule.needs[0])
                self._mistakes.add(given.get(blamed, node).place, join(path, blamed), problem)
        return _FAILED if _FAILED in values.values() else group(**values)

    def _setting(self, node: Node, given: Mapping[str, Node], setting: FieldInfo, path: str) -> Any:
        path = join(path, setting.name)
        if setting.name in given:
            return self.value(given[setting.name], setting.type, path)
        if (default := default_of(setting)) is not NODEFAULT:
            return default
        if group_of(setting.type) is not None:
            return self.value(Node({}, node.place), setting.type, path)
        self._mistakes.add(node.place, path, f"is required: expected {_expected(setting.type)}, found nothing")
        return _FAILED

    def _table(self, given: Mapping[str, Node], table: tuple[Any, Any], path: str) -> Any:
        key_kind, value_kind = table
        keys = [self._leaf(Node(key, node.place), key_kind, join(path, key)) for key, node in given.items()]
        values = [self.value(node, value_kind, join(path, key)) for key, node in given.items()]
        return _FAILED if _FAILED in [*keys, *values] else dict(zip(keys, values, strict=True))

    def _list(self, given: list[Node], kind: Any, path: str) -> Any:
        values = [self.value(node, kind, join(path, index)) for index, node in enumerate(given)]
        if path in MERGED_BY:
            self._refuse_twins(given, MERGED_BY[path], path)
        return _FAILED if _FAILED in values else tuple(values)

    def _refuse_twins(self, given: list[Node], key: str, path: str) -> None:
        seen: dict[str, str] = {}
        for index, node in enumerate(given):
            name = node.value.get(key) if isinstance(node.value, Mapping) else None
            if name is None or not isinstance(name.value, str):
                continue
            entry = join(path, index)
            if (first := seen.setdefault(name.value, entry)) != entry:
                self._mistakes.add(name.place, join(entry, key), f"{name.shown()} is already the {key} of {first}")

    def _anything(self, node: Node, path: str) -> Any:
        value = node.to_plain()
        if all(is_finite(each) and not isinstance(each, Broken) for each in _scalars(value)):
            return value
        self._mistakes.add(node.place, path, "expected JSON, found a number that is not finite")
        return _FAILED

    def _leaf(self, node: Node, kind: Any, path: str) -> Any:
        spellings = [node.value] if node.text in (None, node.value) else [node.value, node.text]
        for value in spellings:
            if (accepted := _accept(value, kind)) is not _FAILED:
                return accepted
        problem = f"expected {_expected(kind, node.value)}, found {node.shown()}"
        if isinstance(node.value, int | float) and _accept(node.shown(), kind) is not _FAILED:
            problem += "; write it in quotes"
        self._mistakes.add(node.place, path, problem)
        return _FAILED


def _accept(value: Any, kind: Any) -> Any:
    """Return `value` as the first of the types that it is right for, or _FAILED."""
    return next((each for member in members(kind) if (each := _accept_as(value, member)) is not _FAILED), _FAILED)


def _accept_as(value: Any, kind: Any) -> Any:
    try:
        if kind is Path:
            return Path(value).expanduser() if is_file_name(value) else _FAILED
        accepted = msgspec.convert(value, kind)
    except (msgspec.ValidationError, RuntimeError):
        return _FAILED
    checks = [note for note in _notes(kind) if isinstance(note, Check)]
    return accepted if all(check.passes(accepted) for check in checks) else _FAILED


def _expected(kind: Any, found: object = None) -> str:
    """How a message names the values that a setting may have."""
    names = [_expected_of(member, found) for member in members(kind) if member is not NoneType]
    return " or ".join(names) + (", or null" if NoneType in members(kind) else "")


def _expected_of(kind: Any, found: object) -> str:
    notes = _notes(kind)
    for note in notes:
        if isinstance(note, Check):
            return note.expected
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    bounds = "".join(_bounds(note, found) for note in notes if isinstance(note, Meta))
    names = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
    if (name := names.get(_base(kind))) is not None:
        return name + bounds
    return "a list" if get_origin(kind) is tuple else "a mapping"


def _bounds(meta: Meta, found: object) -> str:
    """The bounds of a number; the upper one only where it is the one that was missed."""
    low = f" >= {meta.ge:g}" if meta.ge is not None else f" > {meta.gt:g}" if meta.gt is not None else ""
    if meta.le is not None and isinstance(found, int | float) and found > meta.le:
        return f"{low} and <= {meta.le:.15g}"
    return low


def _unknown(key: str, known: Iterable[str]) -> str:
    """What to say of a key that is no setting: the nearest that is one, else all there are."""
    spelled = {name.casefold(): name for name in known}
    if near := get_close_matches(key.casefold()[:_LONGEST_GUESSED], spelled, n=1):
        return f"is not a setting; did you mean {quoted(spelled[near[0]])}?"
    return f"is not a setting; expected one of {', '.join(spelled.values())}"


@cache
def _fields(group: type[Struct]) -> tuple[FieldInfo, ...]:
    return fields(group)


def _base(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _notes(kind: Any) -> tuple[Any, ...]:
    return get_args(kind)[1:] if get_origin(kind) is Annotated else ()


def _scalars(value: Any) -> Iterable[Any]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _scalars(each)
    else:
        yield value
