"""Processes that belong to a folder: a daemon's state directory, or a temporary folder that it was told to use."""

from __future__ import annotations

from pathlib import Path

import psutil


def processes_of(folder: Path) -> list[str]:
    """The processes that work in `folder` or name it on their command line, as text for messages; zombies aside."""
    return [text for process in psutil.process_iter() if (text := _describe(process, str(folder.resolve())))]


def _describe(process: psutil.Process, folder: str) -> str | None:
    try:
        command, cwd = " ".join(process.cmdline()), process.cwd()
        is_zombie = process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None
    if is_zombie or (folder not in command and not cwd.startswith(folder)):
        return None
    return f"{process.pid} {command} in {cwd}"
