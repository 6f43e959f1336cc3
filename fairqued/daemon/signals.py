"""Signals as events of a loop: handlers do nothing but make the loop's wait return."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

ALL = frozenset(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
OPERATING = (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1, signal.SIGUSR2)
"""Orders to a running master: reload, one worker more or less, reopen logs, dump."""

_MOST_READ_BYTES = 65_536


def postpone_orders() -> None:
    """Until a loop takes the signals over: orders wait, and do not end the process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, OPERATING)


def postpone_stops() -> None:
    """Until `interrupt_when_told_to_stop`: what stops a daemon waits, while that is read which it takes to end well."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)


def end_undisturbed() -> None:
    """From here on a process only ends: no further signal keeps it from that, or changes its exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ALL)


def leave_to_main_thread() -> None:
    """First thing in each other thread: a signal that it took would kill the process when the handlers are gone."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ALL)


def interrupt_when_told_to_stop() -> None:
    """Until a loop takes the signals over: let those that stop a daemon raise KeyboardInterrupt."""
    for number in STOPPING:
        signal.signal(number, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


@contextmanager
def interrupts_held_back() -> Iterator[Callable[[], bool]]:
    """A block that no KeyboardInterrupt tears apart: it comes when the block is over. Yields whether one waits."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    arrived: list[int] = []
    for number in STOPPING:
        signal.signal(number, lambda number, _frame: arrived.append(number))
    try:
        yield lambda: bool(arrived)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if arrived:
        raise KeyboardInterrupt


class SignalQueue:
    """Signals that arrived, in order. Its waiting is the loop's only sleep.

    They stand in a pipe, which has room for 65,536; a socket pair is full after 278, and loses those that follow.
    """

    def __init__(self, wanted: Iterable[signal.Signals]) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._wanted = frozenset(wanted)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in self._wanted:
            signal.signal(number, _note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._wanted)

    def wait(self, timeout_seconds: float, others: Iterable[int] = ()) -> tuple[list[signal.Signals], list[int]]:
        """Signals that came, and those of the descriptors `others` that can be read, after at most the timeout."""
        poll = select.poll()
        for descriptor in (self._read, *others):
            poll.register(descriptor, select.POLLIN)
        ready = [descriptor for descriptor, _ in poll.poll(max(0.0, timeout_seconds) * 1000)]
        return self._drain(), [descriptor for descriptor in ready if descriptor != self._read]

    def wake(self) -> None:
        """Let `wait` return, from another thread."""
        with suppress(BlockingIOError):
            os.write(self._write, b"\0")

    def _drain(self) -> list[signal.Signals]:
        try:
            numbers = os.read(self._read, _MOST_READ_BYTES)
        except BlockingIOError:
            return []
        return [signal.Signals(number) for number in numbers if number in self._wanted]


def _note(number: int, frame: object) -> None:
    """The wakeup descriptor carries the number; the handler exists so that Python writes it."""
