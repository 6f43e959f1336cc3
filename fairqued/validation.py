"""What ids, queue names and sizes may be. Everything here raises before anything has changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fairqued.errors import InvalidTask

MAX_ID_LENGTH = 200
MAX_META_BYTES = 4096
_ID = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,200}")
_QUEUE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")


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


def check_queue_name(value: object) -> str:
    """Return a queue name, or raise InvalidTask."""
    if not isinstance(value, str) or not _QUEUE_NAME.fullmatch(value):
        raise InvalidTask(f"queue: {value!r} is not allowed; expected 1 to 100 of the characters A-Z a-z 0-9 _ . -")
    return value


def check_count(value: object, name: str, most: int = 65_535) -> int:
    """Return a whole number from 0 to `most`, or raise InvalidTask."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise InvalidTask(f"{name}: expected a whole number from 0 to {most}, found {value!r}")
    return value


def check_seconds(value: object, name: str, most: float = 10 * 365 * 86_400) -> float:
    """Return a number of seconds from 0 to ten years, or raise InvalidTask."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise InvalidTask(f"{name}: expected seconds from 0 to {most:g}, found {value!r}")
    return float(value)


def check_meta(meta: Mapping[Any, Any]) -> dict[str, str]:
    """Return `meta` as a dict of text to text of at most 4 KiB, or raise InvalidTask."""
    if not isinstance(meta, Mapping):
        raise InvalidTask(f"meta: expected a mapping of text to text, found {type(meta).__name__}")
    size = 0
    for key, value in meta.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidTask(f"meta[{key!r}]: expected text to text, found {type(key).__name__} to {type(value).__name__}")
        try:
            size += len(key.encode()) + len(value.encode())
        except UnicodeEncodeError:
            raise InvalidTask(f"meta[{key!r}]: text with a lone surrogate is not valid Unicode") from None
    if size > MAX_META_BYTES:
        raise InvalidTask(f"meta: {size} bytes, at most {MAX_META_BYTES} are allowed")
    return dict(meta)
