"""What ids, names, sizes and options may be. Everything here raises before anything has changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from fairqued.errors import InvalidTask
from fairqued.state import Priority

MAX_ID_LENGTH = 200
MAX_META_BYTES = 4096
_ID = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,200}")
_QUEUE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_TEN_YEARS = 10 * 365 * 86_400.0
_TEN_LEAP_YEARS = timedelta(days=10 * 366)
_FIRST_YEAR = 1900
_SHORTEST_TTL_SECONDS = _SHORTEST_TIMEOUT_SECONDS = 0.001


def check_id(value: object, name: str) -> str:
    """Return a task or user id, or raise InvalidTask.

    Ids are 1 to 200 characters of Unicode text without control characters.
    """
    if not isinstance(value, str):
        raise InvalidTask(f"{name}: expected text, found {type(value).__name__}")
    if _ID.fullmatch(value):
        return value
    if not value:
        raise InvalidTask(f"{name}: is empty")
    if len(value) > MAX_ID_LENGTH:
        raise InvalidTask(f"{name}: has {len(value)} characters, at most {MAX_ID_LENGTH} are allowed")
    raise InvalidTask(f"{name}: {value!r} holds a control character or a lone surrogate")


def check_queue_name(value: object, name: str = "queue") -> str:
    """Return a queue name, or raise InvalidTask."""
    if not isinstance(value, str) or not _QUEUE_NAME.fullmatch(value):
        raise InvalidTask(
            f"{name}: {shown(value)} is not allowed; expected 1 to 100 of the characters A-Z a-z 0-9 _ . -"
        )
    return value


def check_count(value: object, name: str, most: int = 65_535, *, least: int = 0) -> int:
    """Return a whole number from `least` to `most`, or raise InvalidTask."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidTask(f"{name}: expected a whole number from {least} to {most}, found {shown(value)}")
    return value


def check_seconds(value: object, name: str, most: float = _TEN_YEARS) -> float:
    """Return a number of seconds from 0 to ten years, or raise InvalidTask."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise InvalidTask(f"{name}: expected seconds from 0 to {most:g}, found {shown(value)}")
    return float(value)


def check_meta(meta: object, name: str = "meta") -> dict[str, str]:
    """Return `meta` as a dict of text to text of at most 4 KiB, or raise InvalidTask."""
    if not isinstance(meta, Mapping):
        raise InvalidTask(f"{name}: expected a mapping of text to text, found {type(meta).__name__}")
    size = 0
    for key, value in meta.items():
        if not isinstance(key, str) or not isinstance(value, str):
            found = f"{type(key).__name__} to {type(value).__name__}"
            raise InvalidTask(f"{name}[{shown(key)}]: expected text to text, found {found}")
        try:
            size += len(key.encode()) + len(value.encode())
        except UnicodeEncodeError:
            raise InvalidTask(f"{name}[{shown(key)}]: text with a lone surrogate is not valid Unicode") from None
    if size > MAX_META_BYTES:
        raise InvalidTask(f"{name}: {size} bytes, at most {MAX_META_BYTES} are allowed")
    return dict(meta)


def shown(value: object) -> str:
    """`repr(value)` for an error's text: short, whatever the value."""
    import reprlib  # noqa: PLC0415 - only for the error text

    return reprlib.repr(value)


def _check_priority(value: object, name: str) -> None:
    if not isinstance(value, Priority):
        raise InvalidTask(f"{name}: expected a Priority, found {shown(value)}")


def _check_moment(value: object, name: str) -> None:
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidTask(f"{name}: expected a datetime with a time zone, found {shown(value)}")
    if value.year < _FIRST_YEAR or value - datetime.now(UTC) > _TEN_LEAP_YEARS:
        raise InvalidTask(f"{name}: expected a time from {_FIRST_YEAR} to ten years from now, found {value}")


def _check_backoff(value: object, name: str) -> None:
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for each in value:
            check_seconds(each, name)
    else:
        check_seconds(value, name)


def _check_ttl(value: object, name: str) -> None:
    if check_seconds(value, name) < _SHORTEST_TTL_SECONDS:
        raise InvalidTask(f"{name}: expected at least {_SHORTEST_TTL_SECONDS}; use store_result=False to store none")


def _check_timeout(value: object, name: str) -> None:
    if check_seconds(value, name) < _SHORTEST_TIMEOUT_SECONDS:
        raise InvalidTask(f"{name}: expected at least {_SHORTEST_TIMEOUT_SECONDS}, found {shown(value)}")


def _check_flag(value: object, name: str) -> None:
    if not isinstance(value, bool):
        raise InvalidTask(f"{name}: expected True or False, found {shown(value)}")


def _refuse_not_yet(_: object, name: str) -> None:
    raise InvalidTask(f"{name}: is not supported by this release of fairqued")


_CHECKS: dict[str, Callable[[Any, str], object]] = {
    "task_id": check_id,
    "user_id": check_id,
    "queue": check_queue_name,
    "priority": _check_priority,
    "delay_seconds": check_seconds,
    "run_at": _check_moment,
    "max_retries": check_count,
    "retry_backoff_seconds": _check_backoff,
    "retry_backoff_max_seconds": check_seconds,
    "store_result": _check_flag,
    "result_ttl_seconds": _check_ttl,
    "meta": check_meta,
    "expires_seconds": _refuse_not_yet,
    "depends_on": _refuse_not_yet,
    "on_parent_failure": _refuse_not_yet,
    "missing_parents": _refuse_not_yet,
    "timeout_seconds": _check_timeout,
    "unique_key": _refuse_not_yet,
}
OPTION_NAMES = frozenset(_CHECKS)


def check_options(options: Mapping[str, Any]) -> None:
    """Raise InvalidTask for an option that does not exist, with the nearest one, and for a bad value."""
    for name, value in options.items():
        if name not in _CHECKS:
            raise InvalidTask(f"{name}: is not an option of a task{_nearest(name)}")
        _CHECKS[name](value, name)
    if "delay_seconds" in options and "run_at" in options:
        raise InvalidTask("delay_seconds and run_at are both given; expected one of them")


def _nearest(name: str) -> str:
    import difflib  # noqa: PLC0415 - only for the error text

    near = difflib.get_close_matches(name, OPTION_NAMES, n=1)
    return f"; did you mean {near[0]}?" if near else ""
