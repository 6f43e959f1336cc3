"""Signals as events of a loop: handlers do nothing but make the loop's `select` return."""

from __future__ import annotations

import select
import signal
import socket
from collections.abc import Iterable

ALL = frozenset(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}


class SignalQueue:
    """Signals that arrived, in order. Its waiting is the loop's only sleep."""

    def __init__(self, wanted: Iterable[signal.Signals]) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._wanted = frozenset(wanted)
        for number in self._wanted:
            signal.signal(number, _note)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)

    def wait(self, timeout_seconds: float, others: Iterable[int] = ()) -> tuple[list[signal.Signals], list[int]]:
        """Signals that came, and those of the descriptors `others` that can be read, after at most the timeout."""
        ready, _, _ = select.select([self._read, *others], (), (), max(0.0, timeout_seconds))
        return self._drain(), [each for each in ready if isinstance(each, int)]

    def wake(self) -> None:
        """Let `wait` return, from another thread."""
        try:
            self._write.send(b"\0")
        except BlockingIOError:
            pass

    def _drain(self) -> list[signal.Signals]:
        try:
            numbers = self._read.recv(4096)
        except BlockingIOError:
            return []
        return [signal.Signals(number) for number in numbers if number in self._wanted]


def _note(number: int, frame: object) -> None:
    """The wakeup descriptor carries the number; the handler exists so that Python writes it."""
