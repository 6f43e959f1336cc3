"""The demo's work: count what one file of source code holds."""

from __future__ import annotations

import hashlib
import io
import sysconfig
import tokenize
import zlib
from dataclasses import dataclass
from pathlib import Path

from fairqued.tasks import task

FOLDER = Path(sysconfig.get_path("stdlib")).resolve()
"""Where the standard library of this Python lies."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What one file holds. A file that `tokenize` refuses has no lines and no tokens."""

    path: str
    size: int
    sha256: str
    zlib_size: int
    lines: int
    tokens: int
    is_source: bool


@task
def count(path: str) -> Counted:
    """Read a file of FOLDER: its SHA-256, its size as it is and after zlib, its lines and tokens by `tokenize`."""
    data = (FOLDER / path).read_bytes()
    found = _lines_and_tokens(data)
    lines, tokens = found or (0, 0)
    return Counted(
        path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest(), zlib_size=len(zlib.compress(data)),
        lines=lines, tokens=tokens, is_source=found is not None,
    )  # fmt: skip


def _lines_and_tokens(data: bytes) -> tuple[int, int] | None:
    """None for what is no source code of this Python: Python 2, other encodings, tests of broken syntax."""
    lines = tokens = 0
    try:
        for token in tokenize.tokenize(io.BytesIO(data).readline):
            tokens += 1
            lines = token.start[0]
    except (tokenize.TokenError, SyntaxError, ValueError):
        return None
    return max(0, lines - 1), tokens  # the last token stands on the line after the last one
