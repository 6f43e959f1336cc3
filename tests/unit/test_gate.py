import threading
import time
from collections.abc import Iterator

import pytest

from fairqued.daemon.gate import ForkGate

LATE = 10


@pytest.fixture
def gate() -> ForkGate:
    return ForkGate()


class Worker:
    """A thread that does one unit of work for as long as it is not told to end it."""

    def __init__(self, gate: ForkGate) -> None:
        self._gate = gate
        self.began, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        with self._gate.work():
            self.began.set()
            self._end.wait(LATE)

    def end(self) -> None:
        self._end.set()
        self._thread.join()


@pytest.fixture
def busy(gate: ForkGate) -> Iterator[Worker]:
    worker = Worker(gate)
    assert worker.began.wait(LATE)
    yield worker
    worker.end()


def test_an_idle_gate_lets_fork_at_once(gate: ForkGate) -> None:
    with gate.fork(0) as is_quiet:
        assert is_quiet


def test_a_fork_waits_for_work_under_way(gate: ForkGate, busy: Worker) -> None:
    threading.Timer(0.05, busy.end).start()
    with gate.fork(LATE) as is_quiet:
        assert is_quiet


def test_no_fork_while_work_goes_on(gate: ForkGate, busy: Worker) -> None:
    with gate.fork(0.05) as is_quiet:
        assert not is_quiet
    busy.end()
    with gate.fork(0) as is_quiet:
        assert is_quiet


def test_units_of_work_go_on_side_by_side(gate: ForkGate, busy: Worker) -> None:
    with gate.work():
        assert busy.began.is_set()


def test_no_work_begins_during_a_fork(gate: ForkGate) -> None:
    with gate.fork(0):
        worker = Worker(gate)
        assert not worker.began.wait(0.05)
    assert worker.began.wait(LATE)
    worker.end()


def test_a_fork_that_waits_goes_before_new_work(gate: ForkGate, busy: Worker) -> None:
    order: list[str] = []

    def fork() -> None:
        with gate.fork(LATE) as is_quiet:
            assert is_quiet
            order.append("fork")

    forking = threading.Thread(target=fork)
    forking.start()
    while not gate._wants_fork:
        time.sleep(0.001)
    late = threading.Thread(target=lambda: order.append("work") if _work_once(gate) else None)
    late.start()
    busy.end()
    forking.join()
    late.join()
    assert order == ["fork", "work"]


def _work_once(gate: ForkGate) -> bool:
    with gate.work():
        return True


def test_an_error_in_work_leaves_the_gate_open(gate: ForkGate) -> None:
    with pytest.raises(ZeroDivisionError), gate.work():
        raise ZeroDivisionError
    with gate.fork(0) as is_quiet:
        assert is_quiet


def test_an_error_in_a_fork_leaves_the_gate_open(gate: ForkGate) -> None:
    with pytest.raises(ZeroDivisionError), gate.fork(0):
        raise ZeroDivisionError
    assert _work_once(gate)


def test_many_threads_and_forks(gate: ForkGate) -> None:
    """At no fork was any thread at work."""
    at_work, over, caught = 0, threading.Event(), []
    counting = threading.Lock()

    def work() -> None:
        nonlocal at_work
        while not over.is_set():
            with gate.work():
                with counting:
                    at_work += 1
                time.sleep(0.0005)
                with counting:
                    at_work -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        with gate.fork(LATE) as is_quiet:
            caught.append((is_quiet, at_work))
    over.set()
    for thread in threads:
        thread.join()
    assert caught == [(True, 0)] * 200
