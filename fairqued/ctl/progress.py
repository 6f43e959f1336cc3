"""How far long work is, on one line of a terminal that is written again and again; nowhere else."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

import click

from fairqued.terminal import escaped

_CLEAR_LINE = "\r\x1b[K"


class Progress:
    """Shows its last text on standard error while the `with` block lasts, if that is a terminal."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty()
        self._last = ""

    def show(self, text: str) -> None:
        """Replace what is shown."""
        if self._is_shown and text != self._last:
            self._last = text
            click.echo(_CLEAR_LINE + escaped(text), err=True, nl=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._last:
            click.echo(_CLEAR_LINE, err=True, nl=False)
