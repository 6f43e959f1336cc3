"""A finding: what a check saw, how bad that is, and what to do about it."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Severity(StrEnum):
    """How bad it is. An error keeps tasks from being accepted, run or kept; a warning may do so one day."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Finding(NamedTuple):
    """What a check saw, in sentences for operators; `code` names the check."""

    severity: Severity
    code: str
    what: str
    advice: str = ""


def ok(code: str, what: str) -> Finding:
    """Nothing is to be done."""
    return Finding(Severity.OK, code, what)


def warning(code: str, what: str, advice: str) -> Finding:
    """Something may go wrong."""
    return Finding(Severity.WARNING, code, what, advice)


def error(code: str, what: str, advice: str) -> Finding:
    """Something is wrong."""
    return Finding(Severity.ERROR, code, what, advice)
