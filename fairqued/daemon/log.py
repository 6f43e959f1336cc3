"""Logging of the daemon: text on a terminal, JSON lines elsewhere, with the running task on every line it writes."""

from __future__ import annotations

import logging
import sys
import time
from functools import partial
from io import TextIOWrapper
from textwrap import indent
from typing import Any, Literal, TextIO

from pythonjsonlogger.json import JsonFormatter

from fairqued.context import current_task
from fairqued.shield import whole
from fairqued.terminal import escaped, escaped_lines

_BELOW = "    "


class _Json(JsonFormatter):
    """One JSON object a line; times are UTC, in ISO 8601."""

    converter = staticmethod(time.gmtime)
    default_time_format, default_msec_format = "%Y-%m-%dT%H:%M:%S", "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__(
            "%(asctime)s %(levelname)s %(name)s %(process)d %(message)s",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger", "process": "pid"},
        )


class _Text(logging.Formatter):
    """One line a record, whatever ids and names are in it; a traceback below it cannot pass for another record."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(process)d %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return escaped(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - as above
        return indent(escaped_lines(super().formatException(ei)), _BELOW)

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 - as above
        return indent(escaped_lines(super().formatStack(stack_info)), _BELOW)


class _AddTask(logging.Filter):
    """Put the running task on each record that does not name one."""

    def filter(self, record: logging.LogRecord) -> bool:
        running = current_task()
        if running.is_running and not hasattr(record, "task"):
            record.task, record.user, record.attempt = running.task_id, running.user_id, running.attempt
        return True


class _AddWorker(logging.Filter):
    """Put the worker on each record that does not name one."""

    def __init__(self, worker_id: str) -> None:
        super().__init__()
        self._worker_id = worker_id

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "worker"):
            record.worker = self._worker_id
        return True


class _WholeLines(logging.StreamHandler[TextIO]):
    """No interruption of a task leaves its lock behind: everybody else who logs would wait for ever."""

    def handle(self, record: logging.LogRecord) -> bool:
        return whole(partial(super().handle, record))


def set_up(level: str, form: Literal["auto", "text", "json"]) -> None:
    """Log to standard error in the given form."""
    handler = _WholeLines(sys.stderr)
    handler.addFilter(_AddTask())
    if form == "text" or (form == "auto" and sys.stderr.isatty()):
        handler.setFormatter(_Text())
    else:
        handler.setFormatter(_Json())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def be_worker(worker_id: str) -> None:
    """Name the worker on every line of this process, and let what tasks print appear when they print it."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(_AddWorker(worker_id))
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)


def flush() -> None:
    """Before `os._exit`, which flushes nothing."""
    for handler in logging.getLogger().handlers:
        handler.flush()
    if sys.stdout is not None:
        sys.stdout.flush()
