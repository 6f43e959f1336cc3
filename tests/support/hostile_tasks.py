"""Tasks that return, raise or are given what nobody expects."""

from __future__ import annotations

from typing import Any, NoReturn

from fairqued import current_task, task


@task
def echo(value: Any = None) -> Any:
    """Give back what came."""
    return value


@task
def whose() -> list[str]:
    """Task and user, as the task sees them."""
    running = current_task()
    return [running.task_id, running.user_id]


def _cycle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


RESULTS: dict[str, Any] = {
    "cycle": _cycle(),
    "nested 10,000 deep": _nested(10_000),
    "not a number": float("nan"),
    "beyond 64 bits": 2**64,
    "lone surrogate": "\ud800",
    "key that is no text": {1: 2},
    "bytes": b"x",
}


@task
def give(name: str) -> Any:
    """One of RESULTS."""
    return RESULTS[name]


class EvilError(Exception):
    """Nothing of it can be shown."""

    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


def _recurse() -> NoReturn:
    _recurse()


@task
def fall(how: str) -> NoReturn:
    """Raise something awkward."""
    if how == "surrogates":
        raise ValueError("\udcff\ud800 caf\u00e9")
    if how == "escapes":
        raise type("\x1b[2J", (Exception,), {"__module__": "\x1b]0;owned\x07"})("\x1b[31m\r\n2030-01-01 ERROR forged")
    if how == "megabyte":
        raise ValueError("\u00fc" * 1_000_000)
    if how == "recursion":
        _recurse()
    if how == "group":
        raise ExceptionGroup("many", [ValueError("x" * 10_000) for _ in range(200)])
    if how == "chain":
        error: Exception = ValueError("first")
        for number in range(500):
            error, error.__cause__ = ValueError(str(number)), error
        raise error
    raise EvilError
