"""JSON without surprises: what JSON would change or lose is refused by name, never changed silently.

Values that JSON has no form for (datetime, UUID, Decimal, Enum, Path, dataclasses, sets, tuples …) pass only where an
annotation restores them on the other side; that is msgspec's work, imported when first needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from enum import Enum
from functools import cache
from pathlib import PurePath
from types import UnionType
from typing import Any, get_args, get_origin
from uuid import UUID

import orjson

from fairqued.errors import InvalidTask
from fairqued.validation import shown

_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**64 - 1
_MAX_DEPTH, _MAX_STEPS_SHOWN = 100, 10
_PLAIN_TYPES = frozenset({str, int, float, bool, type(None), list, dict, object, UnionType})
_RESTORED_TYPES = (
    bytes, bytearray, date, datetime, time, timedelta, Enum, PurePath, UUID, tuple, set, frozenset,
)  # fmt: skip


def check_json(value: Any, where: str) -> None:
    """Raise InvalidTask, naming the place, unless JSON gives `value` back exactly as it is."""
    place: list[Any] = []
    problem = _problem(value, place)
    if problem:
        steps = "".join(f"[{shown(step)}]" for step in place[:_MAX_STEPS_SHOWN])
        raise InvalidTask(f"{where}{steps}: {problem}")


def _problem(value: Any, place: list[Any]) -> str | None:
    """What is wrong with `value`; `place` is then the way to it."""
    kind = type(value)
    if kind is not list and kind is not dict:
        return _problem_of_scalar(kind, value)
    if len(place) >= _MAX_DEPTH:
        return f"nested deeper than {_MAX_DEPTH} levels, or a cycle"
    for step, item in value.items() if kind is dict else enumerate(value):
        place.append(step)
        problem = (kind is dict and _problem_of_key(step)) or _problem(item, place)
        if problem:
            return problem
        place.pop()
    return None


def _problem_of_scalar(kind: type, value: Any) -> str | None:
    if kind is str:
        return None if is_unicode(value) else "text with a lone surrogate is not valid Unicode"
    if kind is int:
        return None if _MIN_INTEGER <= value <= _MAX_INTEGER else "an integer beyond 64 bits is not portable JSON"
    if kind is float:
        return None if math.isfinite(value) else f"{value} has no form in JSON"
    return None if kind is bool or value is None else _no_form(kind)


def _problem_of_key(key: Any) -> str | None:
    if type(key) is str:
        return None if is_unicode(key) else "a key with a lone surrogate is not valid Unicode"
    return f"the key is {type(key).__name__}; JSON keys are text"


def _no_form(kind: type) -> str:
    remedy = "convert it, or annotate the parameter with its type" if restores(kind) else "convert it"
    return f"{kind.__module__}.{kind.__qualname__} has no form in JSON; {remedy}"


def is_unicode(text: str) -> bool:
    """Whether it can be UTF-8: no lone surrogate."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def restores(annotation: Any) -> bool:
    """Whether an annotation holds a type that plain JSON does not give back, and that can be restored."""
    try:
        return _restores(annotation)
    except TypeError:  # an annotation that cannot be hashed restores nothing
        return False


@cache
def _restores(annotation: Any) -> bool:
    return _holds_more_than_json(annotation) and _is_supported(annotation)


def _holds_more_than_json(annotation: Any) -> bool:
    for name_of_another in ("__supertype__", "__value__"):  # NewType, type alias
        if hasattr(annotation, name_of_another):
            return _holds_more_than_json(getattr(annotation, name_of_another))
    origin, inner = get_origin(annotation), get_args(annotation)
    if isinstance(origin, type) and issubclass(origin, Mapping) and inner and inner[0] is not str:
        return True
    kind = origin or annotation
    return (isinstance(kind, type) and _is_restored(kind)) or any(map(_holds_more_than_json, inner))


def _is_restored(kind: type) -> bool:
    if kind in _PLAIN_TYPES:
        return False
    from decimal import Decimal  # noqa: PLC0415 - slow to import, rarely needed

    marks = ("__struct_fields__", "__attrs_attrs__", "__required_keys__")  # of msgspec, of attrs, of a TypedDict
    return issubclass(kind, (*_RESTORED_TYPES, Decimal)) or is_dataclass(kind) or any(hasattr(kind, m) for m in marks)


def _is_supported(annotation: Any) -> bool:
    import msgspec  # noqa: PLC0415 - the client imports it only for annotations that need it

    try:
        msgspec.convert(None, annotation, dec_hook=_decode_unknown)
    except msgspec.ValidationError:
        return True
    except TypeError:  # such as a union of str and datetime, which JSON cannot tell apart
        return False
    return True


def to_json_value(value: Any, annotation: Any, where: str) -> Any:
    """`value` as plain JSON values.

    Raises InvalidTask if plain JSON cannot hold it and `annotation` would not restore it exactly.
    """
    if annotation is None or not restores(annotation):
        check_json(value, where)
        return value
    import msgspec  # noqa: PLC0415

    try:
        plain = _without_tuples(msgspec.to_builtins(value, str_keys=True, enc_hook=_encode_unknown))
        check_json(plain, where)
        restored = from_json_value(plain, annotation)
        is_exact = type(restored) is type(value) and _is_same(restored, value)
    except InvalidTask:
        raise
    except Exception as error:  # noqa: BLE001 - the value's own code runs here too
        raise InvalidTask(f"{where}: {error}") from None
    if not is_exact:
        raise InvalidTask(f"{where}: {shown(value)} would come back as {shown(restored)}")
    return plain


def _without_tuples(plain: Any) -> Any:
    if isinstance(plain, list | tuple):
        return [_without_tuples(each) for each in plain]
    if isinstance(plain, dict):
        return {key: _without_tuples(each) for key, each in plain.items()}
    return plain


def _is_same(restored: Any, value: Any) -> bool:
    """Equality; but two times of one instant are never equal where one of their zones repeats or skips the hour."""
    if restored == value:
        return True
    if type(restored) is not type(value):
        return False
    if isinstance(value, list | tuple):
        return len(restored) == len(value) and all(map(_is_same, restored, value))
    if isinstance(value, dict):
        return restored.keys() == value.keys() and all(_is_same(restored[key], value[key]) for key in value)
    if is_dataclass(value):
        return all(_is_same(getattr(restored, each.name), getattr(value, each.name)) for each in fields(value))
    return isinstance(value, datetime) and restored.isoformat() == value.isoformat()


def from_json_value(plain: Any, annotation: Any) -> Any:
    """Restore what `to_json_value` made plain. Raises ValueError (as msgspec's ValidationError) if it does not fit."""
    if annotation is None or not restores(annotation):
        return plain
    import msgspec  # noqa: PLC0415

    return msgspec.convert(plain, annotation, str_keys=True, dec_hook=_decode_unknown)


def _encode_unknown(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} has no form in JSON")


def _decode_unknown(kind: Any, plain: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, PurePath) and isinstance(plain, str):
        return kind(plain)
    raise TypeError(f"{kind} cannot be restored from JSON; annotate with a concrete type, such as list")


def dumps(value: Any) -> bytes:
    """Encode checked values."""
    return orjson.dumps(value)


loads: Callable[[bytes], Any] = orjson.loads
