"""fairquectl in the test's own process: what it printed, and its exit code."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest.mock import patch

import pytest

from fairqued.ctl.main import cli


@dataclass(frozen=True)
class Answer:
    """What a run of fairquectl said."""

    code: int
    out: str
    err: str


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


def ctl(*words: object, typed: str = "", stderr: io.StringIO | None = None) -> Answer:
    """Run a command to its end; nothing else can be typed."""
    out, err = io.StringIO(), stderr or io.StringIO()
    with (
        patch.object(sys, "stdin", io.StringIO(typed)),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        cli(args=[str(word) for word in words], prog_name="fairquectl")
    assert isinstance(end.value.code, int)
    return Answer(end.value.code, out.getvalue(), err.getvalue())
