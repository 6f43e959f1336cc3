"""What the demo says at its end."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich.console import Console
from rich.table import Table

from fairqued.demo.checks import Check
from fairqued.demo.ran import Ran, shares_while_all_wait, waits_if_first_come_first_served
from fairqued.demo.view import say, seconds


def print_waits(console: Console, tasks: Sequence[Ran], slots: int) -> None:
    """A row for each user: how long its tasks waited, and how long they would have waited in one line with all."""
    fifo = waits_if_first_come_first_served(tasks, slots)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("\nuser")
    for title in ("\ntasks", "median\nwait", "worst\nwait", "median\nif FIFO", "worst\nif FIFO", "slot-\nseconds"):
        table.add_column(title, justify="right", no_wrap=True)
    for user in dict.fromkeys(task.user_id for task in tasks):
        own = [task for task in tasks if task.user_id == user]
        waits = [task.wait for task in own]
        waits_if_fifo = [wait for task, wait in zip(tasks, fifo, strict=True) if task.user_id == user]
        table.add_row(
            user, f"{len(own):,}", seconds(median(waits)), seconds(max(waits)), seconds(median(waits_if_fifo)),
            seconds(max(waits_if_fifo)), f"{sum(task.duration for task in own):.2f}",
        )  # fmt: skip
    console.print(table)
    say(
        console,
        f"wait: from enqueue to start. If FIFO: the same tasks on {slots} slots, first come, first served, no kill.",
    )


def print_shares(console: Console, tasks: Sequence[Ran], users: Sequence[str]) -> None:
    """Who got which part of the slots while all of them had work waiting."""
    shares = shares_while_all_wait(tasks, users)
    parts = ", ".join(f"{user} {part:.0%}" for user, part in shares.parts.items())
    say(console, f"While {len(users)} users had tasks waiting ({seconds(shares.seconds)}), slot time went to: {parts}.")


def print_checks(console: Console, checks: Sequence[Check]) -> bool:
    """One line a check. Returns whether all hold."""
    for check in checks:
        word, style = ("OK", "green") if check.holds else ("FAILED", "bold red")
        say(console, f"{word:7} {check.claim}: {check.grounds}", style)
    return all(check.holds for check in checks)
