"""What every thread of this process is doing, as text for a log."""

from __future__ import annotations

import sys
import threading
import traceback


def all_stacks() -> str:
    """The stack of each thread, by name."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = [
        f"thread {names.get(number, number)}:\n{''.join(traceback.format_stack(frame)).rstrip()}"
        for number, frame in sys._current_frames().items()  # noqa: SLF001 - its documented name
    ]
    return "\n".join(parts)
