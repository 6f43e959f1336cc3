"""Watching source files, for `fairqued dev --reload`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

_NEVER = frozenset({"__pycache__", "node_modules", "site-packages", "venv"})


class SourceFiles:
    """The Python files below some folders, hidden folders and virtual environments left out."""

    def __init__(self, folders: Sequence[str]) -> None:
        self._folders = [Path(folder).resolve() for folder in folders]
        self._seen = self._look()

    def changed(self) -> list[Path]:
        """The files that were changed, added or removed since the last call."""
        before, self._seen = self._seen, self._look()
        return sorted(path for path in {*before, *self._seen} if before.get(path) != self._seen.get(path))

    def _look(self) -> dict[Path, tuple[int, int]]:
        return {path: stamp for folder in self._folders for path, stamp in _stamps(folder)}


def _stamps(folder: Path) -> Iterator[tuple[Path, tuple[int, int]]]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _NEVER]
        for name in files:
            if name.endswith(".py"):
                path = Path(parent, name)
                try:
                    about = path.stat()
                except OSError:  # it went away meanwhile
                    continue
                yield path, (about.st_mtime_ns, about.st_size)
