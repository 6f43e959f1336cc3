import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from fairqued.daemon.signals import (
    STOPPING,
    SignalQueue,
    interrupt_when_told_to_stop,
    interrupts_held_back,
    postpone_stops,
)

LATE = 10


@pytest.fixture(autouse=True)
def _handlers_as_before() -> Iterator[None]:
    numbers = (*STOPPING, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def signals() -> Iterator[SignalQueue]:
    queue = SignalQueue([signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
    yield queue
    os.close(queue._read)
    os.close(queue._write)


def test_signals_come_in_their_order(signals: SignalQueue) -> None:
    for number in (signal.SIGUSR2, signal.SIGHUP, signal.SIGUSR1):
        os.kill(os.getpid(), number)
    assert signals.wait(LATE) == ([signal.SIGUSR2, signal.SIGHUP, signal.SIGUSR1], [])
    assert signals.wait(0) == ([], [])


def test_a_storm_of_signals_drowns_none_that_follows(signals: SignalQueue) -> None:
    for _ in range(2000):
        os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert signals.wait(LATE)[0][-1] is signal.SIGUSR1


def test_a_signal_ends_the_wait(signals: SignalQueue) -> None:
    began = time.monotonic()
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGHUP)).start()
    assert signals.wait(LATE) == ([signal.SIGHUP], [])
    assert time.monotonic() - began < LATE / 2


def test_another_thread_ends_the_wait(signals: SignalQueue) -> None:
    threading.Timer(0.05, signals.wake).start()
    began = time.monotonic()
    assert signals.wait(LATE) == ([], [])
    assert time.monotonic() - began < LATE / 2


def test_waking_often_blocks_nobody(signals: SignalQueue) -> None:
    for _ in range(100_000):
        signals.wake()
    signals.wait(0)


def test_other_descriptors_end_the_wait(signals: SignalQueue) -> None:
    read, write = os.pipe()
    assert signals.wait(0, [read]) == ([], [])
    os.write(write, b"!")
    assert signals.wait(LATE, [read]) == ([], [read])
    os.read(read, 1)
    os.close(write)
    assert signals.wait(LATE, [read]) == ([], [read]), "the end of a pipe is news too"
    os.close(read)


def test_descriptors_above_a_thousand(signals: SignalQueue) -> None:
    read, write = os.pipe()
    high = os.dup2(read, 2000)
    os.write(write, b"!")
    assert signals.wait(LATE, [high]) == ([], [high])
    for descriptor in (read, write, high):
        os.close(descriptor)


@pytest.mark.parametrize("number", STOPPING)
def test_before_the_loop_a_stop_interrupts(number: signal.Signals) -> None:
    interrupt_when_told_to_stop()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", STOPPING)
def test_a_stop_that_comes_too_early_waits(number: signal.Signals) -> None:
    postpone_stops()
    signal.raise_signal(number)  # to this thread: another one of the tests' process could take it, and end it
    with pytest.raises(KeyboardInterrupt):
        interrupt_when_told_to_stop()


@pytest.mark.parametrize("number", STOPPING)
def test_a_stop_can_be_held_back(number: signal.Signals) -> None:
    interrupt_when_told_to_stop()
    steps = []

    def take_steps() -> None:
        with interrupts_held_back():
            steps.append("first")
            os.kill(os.getpid(), number)
            steps.append("second")
        steps.append("third")

    with pytest.raises(KeyboardInterrupt):
        take_steps()
    assert steps == ["first", "second"]
    with interrupts_held_back():
        steps.append("nothing to hold back")
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
