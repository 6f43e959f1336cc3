"""Waiting for an event, never for time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_PAUSE_SECONDS = 0.01


def wait_until(condition: Callable[[], T], timeout_seconds: float, what: str) -> T:
    """Poll until the condition's answer is truthy and return it; else fail, naming what was awaited and the answer."""
    deadline = time.monotonic() + timeout_seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_seconds:g} s (last answer: {answer!r})")
        time.sleep(_PAUSE_SECONDS)
    return answer
