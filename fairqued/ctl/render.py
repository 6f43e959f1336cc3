"""How answers are printed: tables for people, JSON and ids for programs.

Colours only on a terminal. Nothing from Redis or from a file reaches the terminal before `escaped` has seen it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import click
import orjson

from fairqued.terminal import escaped, escaped_lines

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_STYLES = {
    "ready": "green", "running": "green", "reachable": "green", "booting": "yellow", "stopping": "yellow",
    "vacant": "red", "not running": "red", "not reachable": "red", "lease over": "red", "cannot boot": "red",
    "answers": "green", "does not answer": "red", "under way": "yellow", "stuck": "red",
    "ok": "green", "warning": "yellow", "error": "red",
}  # fmt: skip


class Output(StrEnum):
    """The forms of -o."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    JSONL = "jsonl"
    ID = "id"


@dataclass(frozen=True)
class Column:
    """A column of a table; numbers are aligned to the right, states have a colour on a terminal."""

    title: str
    is_number: bool = False
    is_state: bool = False
    only_wide: bool = False


@dataclass(frozen=True)
class Table:
    """Rows below a line of titles, which is left out if all are empty."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]

    def narrowed(self) -> Table:
        """The table without the columns of -o wide."""
        kept = [number for number, column in enumerate(self.columns) if not column.only_wide]
        return Table([self.columns[n] for n in kept], [[row[n] for n in kept] for row in self.rows])


def duration(seconds: float) -> str:
    """Seconds for people: 4.2s, 3m12s, 2h05m, 3d04h."""
    if seconds < _MINUTE:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02}m"
    return f"{whole // _DAY}d{whole % _DAY // _HOUR:02}h"


def print_json(document: Any) -> None:
    """One document, indented."""
    click.echo(_ascii_safe(orjson.dumps(document, option=orjson.OPT_INDENT_2)))


def print_json_lines(documents: Iterable[Any]) -> None:
    """One document a line."""
    for document in documents:
        click.echo(_ascii_safe(orjson.dumps(document)))


def print_lines(lines: Iterable[str]) -> None:
    """One text a line."""
    for line in lines:
        click.echo(escaped(line))


def print_tables(tables: Sequence[Table], *, wide: bool) -> None:
    """Tables with an empty line between them."""
    shown = [table if wide else table.narrowed() for table in tables]
    if sys.stdout.isatty():
        _print_rich(shown)
    else:
        click.echo("\n\n".join("\n".join(_plain_lines(table)) for table in shown))


def print_error(message: str) -> None:
    """One line on standard error, or several where the message has them."""
    click.echo("fairquectl: " + escaped_lines(message), err=True)


def _ascii_safe(encoded: bytes) -> str:
    """JSON text whose strings hold no character that a terminal acts upon; orjson escapes the ones below a blank."""
    text = encoded.decode()
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each == "\n" else _json_escape(each) for each in text)


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def _cell(value: Any) -> str:
    return "-" if value is None else escaped(str(value))


def _has_titles(table: Table) -> bool:
    return any(column.title for column in table.columns)


def _plain_lines(table: Table) -> list[str]:
    lines = [[column.title for column in table.columns]] if _has_titles(table) else []
    lines += [[_cell(value) for value in row] for row in table.rows]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return [_aligned(line, widths, table.columns) for line in lines]


def _aligned(cells: Sequence[str], widths: Sequence[int], columns: Sequence[Column]) -> str:
    padded = (
        cell.rjust(width) if column.is_number else cell.ljust(width)
        for cell, width, column in zip(cells, widths, columns, strict=True)
    )
    return "  ".join(padded).rstrip()


def _print_rich(tables: Sequence[Table]) -> None:
    from rich.console import Console  # noqa: PLC0415 - for terminals only, and slow to import

    console = Console(highlight=False)
    for number, table in enumerate(tables):
        if number:
            console.print()
        console.print(_rich_table(table))


def _rich_table(table: Table) -> Any:
    from rich.table import Table as RichTable  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    drawn = RichTable(
        box=None, show_header=_has_titles(table), header_style="bold", pad_edge=False, padding=(0, 2, 0, 0)
    )
    for column in table.columns:
        drawn.add_column(column.title, justify="right" if column.is_number else "left", overflow="fold")
    for row in table.rows:
        cells = zip(table.columns, map(_cell, row), strict=True)
        drawn.add_row(*(Text(cell, _STYLES.get(cell, "") if column.is_state else "") for column, cell in cells))
    return drawn
