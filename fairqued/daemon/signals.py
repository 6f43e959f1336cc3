"""Signals as events of a loop: handlers do nothing but make the loop's wait return."""

from __future__ import annotations

import select
import signal
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

ALL = frozenset(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
OPERATING = (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1, signal.SIGUSR2)
"""Orders to a running master: reload, one worker more or less, reopen logs, dump."""


def postpone_orders() -> None:
    """Until a loop takes the signals over: orders wait, and do not end the process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, OPERATING)


def end_undisturbed() -> None:
    """The last thing of a process that ends in good order: no further signal changes its exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ALL)


def interrupt_when_told_to_stop() -> None:
    """Until a loop takes the signals over: let those that stop a daemon raise KeyboardInterrupt."""
    for number in STOPPING:
        signal.signal(number, signal.default_int_handler)


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """A block that no KeyboardInterrupt tears apart: it comes when the block is over."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    arrived: list[int] = []
    for number in STOPPING:
        signal.signal(number, lambda number, _frame: arrived.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if arrived:
        raise KeyboardInterrupt


class SignalQueue:
    """Signals that arrived, in order. Its waiting is the loop's only sleep."""

    def __init__(self, wanted: Iterable[signal.Signals]) -> None:
        self._read, self._write = socket.socketpair()
        self._read.settimeout(0)
        self._write.settimeout(0)
        self._wanted = frozenset(wanted)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        for number in self._wanted:
            signal.signal(number, _note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._wanted)

    def wait(self, timeout_seconds: float, others: Iterable[int] = ()) -> tuple[list[signal.Signals], list[int]]:
        """Signals that came, and those of the descriptors `others` that can be read, after at most the timeout."""
        poll = select.poll()
        for descriptor in (self._read.fileno(), *others):
            poll.register(descriptor, select.POLLIN)
        ready = [descriptor for descriptor, _ in poll.poll(max(0.0, timeout_seconds) * 1000)]
        return self._drain(), [descriptor for descriptor in ready if descriptor != self._read.fileno()]

    def wake(self) -> None:
        """Let `wait` return, from another thread."""
        with suppress(BlockingIOError):
            self._write.send(b"\0")

    def _drain(self) -> list[signal.Signals]:
        try:
            numbers = self._read.recv(4096)
        except BlockingIOError:
            return []
        return [signal.Signals(number) for number in numbers if number in self._wanted]


def _note(number: int, frame: object) -> None:
    """The wakeup descriptor carries the number; the handler exists so that Python writes it."""
