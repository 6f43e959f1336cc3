"""The demo's input, and what has to come out of it: counted directly, without any queue."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from fairqued.daemon.config import usable_cpus
from fairqued.demo.tasks import FOLDER, Counted, count
from fairqued.errors import FairquedError

_NOT_OURS = frozenset({"site-packages", "dist-packages", "__pycache__"})
_FILES_A_TURN, _PAUSE_SECONDS, _LONGEST_SECONDS = 10, 0.1, 300.0


def stdlib_files() -> list[str]:
    """Every Python file of the standard library, by its path within it."""
    files = (file.relative_to(FOLDER) for file in sorted(FOLDER.rglob("*.py")))
    return [str(file) for file in files if not _NOT_OURS & set(file.parts)]


def spread(paths: Sequence[str], number: int, *, offset: float = 0.0) -> list[str]:
    """Return `number` of the paths, or all if there are fewer, at even distances: a fair sample, always the same."""
    number = min(number, len(paths))
    return [paths[int((index + offset) * len(paths) / number)] for index in range(number)]


def count_directly(paths: Sequence[str], while_waiting: Callable[[], None] = lambda: None) -> dict[str, Counted]:
    """Count files without fairqued, by `multiprocessing`, on as many processes as there are CPUs.

    `while_waiting` is called now and then; what it raises ends the counting.
    """
    with _interrupts_ignored():  # the children's too: a Ctrl-C is the parent's business, which ends them
        pool = multiprocessing.get_context("spawn").Pool(usable_cpus())
    with pool:
        counting = pool.map_async(count, paths, _FILES_A_TURN)
        deadline = time.monotonic() + _LONGEST_SECONDS  # a Pool whose process was killed never ends
        while not counting.ready():
            if time.monotonic() > deadline:
                raise FairquedError(f"counting without the queue did not end within {_LONGEST_SECONDS:g} s")
            while_waiting()
            counting.wait(_PAUSE_SECONDS)
        return {counted.path: counted for counted in counting.get()}


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
