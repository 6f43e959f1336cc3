import fcntl
import os
import time
from collections.abc import Iterator

import pytest

from fairqued.worker.bell import Waker, wait_any

LATE = 10


@pytest.fixture
def wakers() -> Iterator[list[Waker]]:
    wakers = [Waker(), Waker()]
    yield wakers
    for waker in wakers:
        waker.close()


def test_who_rang_is_told(wakers: list[Waker]) -> None:
    assert wait_any(wakers, 0) == []
    wakers[1].ring()
    assert wait_any(wakers, LATE) == [wakers[1]]
    wakers[1].drain()
    assert wait_any(wakers, 0) == []


def test_ringing_often_is_one_wake_up_and_blocks_nobody(wakers: list[Waker]) -> None:
    for _ in range(100_000):
        wakers[0].ring()
    wakers[0].drain()
    assert wait_any(wakers, 0) == []


def test_a_wait_ends_in_time(wakers: list[Waker]) -> None:
    began = time.monotonic()
    assert wait_any(wakers, 0.05) == []
    assert 0.05 <= time.monotonic() - began < LATE
    assert wait_any(wakers, -1) == []


def test_ringing_a_closed_one_does_no_harm() -> None:
    waker = Waker()
    waker.close()
    waker.ring()


def test_descriptors_above_a_thousand() -> None:
    """A task may open many; `select` cannot look at what is opened after that."""

    class High(Waker):
        def fileno(self) -> int:
            return high

    waker = High()
    high = fcntl.fcntl(waker._read.fileno(), fcntl.F_DUPFD_CLOEXEC, 1500)
    waker.ring()
    assert wait_any([waker], LATE) == [waker]
    os.close(high)
    waker.close()
