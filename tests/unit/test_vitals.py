"""The memory that a worker and its master share, over real forks and deaths."""

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from fairqued.store import Ended
from fairqued.worker.vitals import MOST_WILLS, PLACE_BYTES, Vitals, Will, Wish
from tests.support.wait import wait_until

LATE = 60


@pytest.fixture
def vitals() -> Iterator[Vitals]:
    vitals = Vitals()
    yield vitals
    vitals.close()


def will(number: int, error: bytes = b'{"type":"T"}', task_id: str = "") -> Will:
    return Will(Ended(task_id or f"task {number}", number, "retry", 1_000_000, error), 17.25 + number)


def in_child(work: Callable[[], None]) -> int:
    """Run this in a fork, and return its wait status."""
    if (pid := os.fork()) == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1]


def leave(vitals: Vitals, wills: list[Will]) -> None:
    """As by the slots of a worker, one each."""
    for place, left in enumerate(wills):
        vitals.leave_will(place, left)


def test_nothing_was_said_at_first(vitals: Vitals) -> None:
    assert (vitals.beats, vitals.wish, vitals.renewed_at, vitals.wills()) == (0, Wish.NONE, 0.0, [])


def test_the_master_sees_what_a_worker_left_that_was_killed(vitals: Vitals) -> None:
    wills = [will(1), will(2, '{"message":"\u0000 é 🙂"}'.encode(), "a {b}* \U0001f642")]

    def work() -> None:
        vitals.beat()
        vitals.beat()
        vitals.wish_for_replacement(Wish.WEDGED)
        leave(vitals, wills)
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(work) == signal.SIGKILL
    assert (vitals.beats, vitals.wish, vitals.wills()) == (2, Wish.WEDGED, wills)


def test_the_worker_sees_when_its_master_renewed(vitals: Vitals) -> None:
    before = time.monotonic()
    vitals.note_renewal()
    assert before <= vitals.renewed_at <= time.monotonic()
    noted = vitals.renewed_at
    assert in_child(lambda: vitals.beat() if vitals.renewed_at == noted else None) == 0
    assert vitals.beats == 1


def test_a_graver_wish_stands(vitals: Vitals) -> None:
    vitals.wish_for_replacement(Wish.WEDGED)
    vitals.wish_for_replacement(Wish.MAX_TASKS)
    assert vitals.wish is Wish.WEDGED


def test_wills_take_the_place_of_those_before(vitals: Vitals) -> None:
    leave(vitals, [will(1), will(2), will(3)])
    vitals.leave_will(1, None)
    assert vitals.wills() == [will(1), will(3)]
    vitals.leave_will(1, will(4, b"{}"))
    assert vitals.wills() == [will(1), will(4, b"{}"), will(3)]
    for place in range(3):
        vitals.leave_will(place, None)
    assert vitals.wills() == []


def test_a_will_is_read_whole_or_not_at_all_while_it_is_written_and_after_a_death(vitals: Vitals) -> None:
    short, long = will(1), will(2, b'{"message":"' + b"x" * 3000 + b'"}')

    def write_for_ever() -> None:
        while True:
            vitals.leave_will(0, short)
            vitals.leave_will(0, long)

    seen = []
    for _ in range(10):
        if (pid := os.fork()) == 0:
            write_for_ever()
        wait_until(vitals.wills, LATE, "it writes")
        seen += [vitals.wills() for _ in range(300)]
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        seen.append(vitals.wills())
        vitals.leave_will(0, None)
    assert [short] in seen
    assert [long] in seen
    assert all(each in ([], [short], [long]) for each in seen)


def test_a_will_with_a_wrong_byte_is_none(vitals: Vitals) -> None:
    leave(vitals, [will(1), will(2)])
    memory = vitals._memory
    at = memory.find(b"task 1")
    memory[at : at + 1] = b"T"
    assert vitals.wills() == [will(2)]


@pytest.mark.parametrize("size", [PLACE_BYTES - 200, PLACE_BYTES - 40, PLACE_BYTES, 20_000])
def test_an_error_too_long_is_left_out(vitals: Vitals, size: int) -> None:
    error = b'{"m":"' + b"x" * size + b'"}'
    leave(vitals, [will(1, error), will(2)])
    assert vitals.wills() == [will(1, error if size < PLACE_BYTES - 100 else b"{}"), will(2)]


def test_there_is_room_for_the_wills_of_very_many_threads(vitals: Vitals) -> None:
    long_id = "\U0001f642" * 200
    wills = [will(number, task_id=long_id) for number in range(MOST_WILLS + 3)]
    leave(vitals, wills)
    assert vitals.wills() == wills[:MOST_WILLS]
