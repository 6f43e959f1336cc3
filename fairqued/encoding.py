"""JSON without surprises: what JSON would change or lose is refused by name, never changed silently.

Values that JSON has no form for (datetime, UUID, Decimal, Enum, Path, dataclasses, sets, tuples …) pass only where an
annotation restores them on the other side; that is msgspec's work, imported when first needed.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from functools import cache
from typing import Any, Union, get_args, get_origin

import orjson

from fairqued.errors import InvalidTask

_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**64 - 1
_MAX_DEPTH = 100
_PLAIN_TYPES = frozenset({str, int, float, bool, type(None), None, list, dict, Any, object})


def check_json(value: Any, where: str, depth: int = 0) -> None:
    """Raise InvalidTask, naming the place, unless JSON gives `value` back exactly as it is."""
    problem = _problem(value)
    if problem:
        raise InvalidTask(f"{where}: {problem}")
    if depth > _MAX_DEPTH:
        raise InvalidTask(f"{where[:200]}: nested deeper than {_MAX_DEPTH} levels, or a cycle")
    if type(value) is list:
        for index, item in enumerate(value):
            check_json(item, f"{where}[{index}]", depth + 1)
    elif type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise InvalidTask(f"{where}: key {key!r} is {type(key).__name__}; JSON keys are text")
            check_json(key, f"{where} key {key!r}")
            check_json(item, f"{where}[{key!r}]", depth + 1)


def _problem(value: Any) -> str | None:
    kind = type(value)
    if kind is str:
        return None if value.isascii() or _is_unicode(value) else "text with a lone surrogate is not valid Unicode"
    if kind is int:
        return None if _MIN_INTEGER <= value <= _MAX_INTEGER else "an integer beyond 64 bits is not portable JSON"
    if kind is float:
        return None if math.isfinite(value) else f"{value} has no form in JSON"
    if kind in (bool, type(None), list, dict):
        return None
    return f"{kind.__module__}.{kind.__qualname__} has no form in JSON; convert it, or annotate the parameter with it"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@cache
def needs_restoring(annotation: Any) -> bool:
    """Whether an annotation holds a type that plain JSON does not give back."""
    if annotation in _PLAIN_TYPES:
        return False
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (list, Union, types.UnionType):
        return any(needs_restoring(each) for each in inner)
    if origin is dict:
        return inner[0] is not str or needs_restoring(inner[1])
    return True


def to_json_value(value: Any, annotation: Any, where: str) -> Any:
    """`value` as plain JSON values.

    Raises InvalidTask if plain JSON cannot hold it and `annotation` would not restore it exactly.
    """
    if annotation is None or not _is_restorable(annotation):
        check_json(value, where)
        return value
    import msgspec  # noqa: PLC0415 - the client imports it only for annotations that need it

    try:
        plain = msgspec.to_builtins(value, str_keys=True, enc_hook=_encode_unknown)
        restored = from_json_value(plain, annotation)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise InvalidTask(f"{where}: {error}") from None
    check_json(plain, where)
    if type(restored) is not type(value) or restored != value:
        raise InvalidTask(f"{where}: {value!r} would come back as {restored!r}")
    return plain


def from_json_value(plain: Any, annotation: Any) -> Any:
    """Restore a value that `to_json_value` made plain. Raises msgspec.ValidationError if it does not fit."""
    if annotation is None or not _is_restorable(annotation):
        return plain
    import msgspec  # noqa: PLC0415

    return msgspec.convert(plain, annotation, str_keys=True, dec_hook=_decode_unknown)


def _is_restorable(annotation: Any) -> bool:
    try:
        return needs_restoring(annotation)
    except TypeError:  # an annotation that cannot be hashed restores nothing
        return False


def _encode_unknown(value: Any) -> Any:
    from pathlib import PurePath  # noqa: PLC0415

    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} has no form in JSON")


def _decode_unknown(kind: type, plain: Any) -> Any:
    from pathlib import PurePath  # noqa: PLC0415

    if issubclass(kind, PurePath) and isinstance(plain, str):
        return kind(plain)
    raise TypeError(f"{kind.__module__}.{kind.__qualname__} cannot be restored from JSON")


def dumps(value: Any) -> bytes:
    """Encode checked values."""
    return orjson.dumps(value)


loads: Callable[[bytes], Any] = orjson.loads
