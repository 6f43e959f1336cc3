"""What the demo shows while it runs: bars on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

_LINE_EVERY_SECONDS = 1.0
_PLAIN_WIDTH = 110


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a user's tasks have come."""

    user_id: str
    tasks: int
    waiting: int

    @property
    def started(self) -> int:
        """Those that run, and those that have ended."""
        return self.tasks - self.waiting


class View(Protocol):
    """A place to tell what happens, and to show how far each user's tasks have come."""

    def tell(self, event: str) -> None:
        """Something happened."""

    def show(self, standings: list[Standing]) -> None:
        """The users' standings have changed."""


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._started_at = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return time.monotonic() - self._started_at


class PlainView:
    """Lines without control codes."""

    def __init__(self, console: Console) -> None:
        self._console, self._watch = console, Stopwatch()
        self._next_line = _LINE_EVERY_SECONDS

    def tell(self, event: str) -> None:
        """Print a line."""
        say(self._console, f"{self._watch.seconds:5.1f} s  {event}")

    def show(self, standings: list[Standing]) -> None:
        """Print a line, if the last one was a while ago."""
        if self._watch.seconds >= self._next_line:
            self._next_line = self._watch.seconds + _LINE_EVERY_SECONDS
            self.tell("started: " + ", ".join(f"{each.user_id} {each.started:,}/{each.tasks:,}" for each in standings))


class LiveView(PlainView):
    """A bar for each user, below the lines."""

    def __init__(self, console: Console, progress: Progress) -> None:
        super().__init__(console)
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def show(self, standings: list[Standing]) -> None:
        """Move the bars."""
        for each in standings:
            if each.user_id not in self._bars:
                self._bars[each.user_id] = self._progress.add_task(each.user_id, total=each.tasks)
            self._progress.update(self._bars[each.user_id], completed=each.started, total=each.tasks)


def make_console() -> Console:
    """Standard output: as it is on a terminal, without any control code elsewhere."""
    console = Console(highlight=False)
    if console.is_terminal and not console.is_dumb_terminal and console.file.isatty():
        return console
    return Console(highlight=False, force_terminal=False, no_color=True, width=_PLAIN_WIDTH)


@contextmanager
def open_view(console: Console) -> Iterator[View]:
    """A view that fits the console."""
    if not console.is_terminal:
        yield PlainView(console)
        return
    text = "{task.completed:,.0f} of {task.total:,.0f} started, {task.remaining:,.0f} waiting"
    with Progress(TextColumn("{task.description:>7}"), BarColumn(30), TextColumn(text), console=console) as progress:
        yield LiveView(console, progress)


def say(console: Console, text: str, style: str = "") -> None:
    """Print a line as it is: not wrapped, brackets and all."""
    console.print(text, style=style, markup=False, soft_wrap=True)


def seconds(value: float) -> str:
    """A duration for people."""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"
