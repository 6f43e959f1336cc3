"""Interruptions land in the code of their task and nowhere else, whenever they are sent."""

from __future__ import annotations

import asyncio
import math
import os
import random
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Any

import pytest

from fairqued import patience, shield
from fairqued.connection import Connection
from fairqued.errors import Interruption, TaskInterrupted, TaskTimeout
from fairqued.worker import interruption
from fairqued.worker.interruption import Interruptible
from tests.support.wait import wait_until

LATE = 30
RACES = 4000


class Task:
    """Any object will do."""


def in_slot(work: Callable[[Interruptible], Any], kind: type[Interruptible] = Interruptible) -> Any:
    """What `work` returns in a thread of its own that can be interrupted."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(work(kind())), daemon=True)
    thread.start()
    thread.join(LATE)
    assert answers, "the thread was hit outside a task, or hangs"
    return answers[0]


@contextmanager
def interrupter(slot: Interruptible, task: object, kind: type[Interruption], when: Callable[[], Any]) -> Iterator[None]:
    """Another thread that interrupts once `when` is true."""

    def interrupt() -> None:
        wait_until(when, LATE, "time to interrupt")
        wait_until(lambda: slot.interrupt(task, kind), LATE, "it is interrupted")

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield
    finally:
        thread.join(LATE)


def wait_for_ever() -> None:
    """As a task that computes: each step is bytecode."""
    while True:
        time.sleep(0.001)


def test_it_lands_in_the_code_of_the_task() -> None:
    cleaned = []

    def clean_up() -> None:
        try:
            wait_for_ever()
        finally:
            cleaned.append(True)

    def run(slot: Interruptible) -> Any:
        task = Task()
        with interrupter(slot, task, TaskTimeout, lambda: True), pytest.raises(TaskTimeout, match="timeout_seconds"):
            slot.call(task, clean_up)
        return slot.interrupted_by

    assert in_slot(run) is TaskTimeout
    assert cleaned


def test_except_exception_does_not_swallow_it() -> None:
    def stubborn() -> None:
        while True:
            with suppress(Exception):
                wait_for_ever()

    def run(slot: Interruptible) -> bool:
        task = Task()
        with interrupter(slot, task, TaskInterrupted, lambda: True), pytest.raises(TaskInterrupted):
            slot.call(task, stubborn)
        return True

    assert in_slot(run)


def test_a_task_that_catches_it_returns() -> None:
    def stubborn() -> str:
        try:
            wait_for_ever()
        except TaskTimeout:
            return "done"
        raise AssertionError

    def run(slot: Interruptible) -> Any:
        task = Task()
        with interrupter(slot, task, TaskTimeout, lambda: True):
            return slot.call(task, stubborn)

    assert in_slot(run) == "done"


def test_what_was_returned_meanwhile_is_kept() -> None:
    """The task is a C call that ends once the interruption was sent, which lands at the next bytecode."""
    read, write = os.pipe()

    def end(slot: Interruptible, task: object) -> None:
        wait_until(lambda: slot.interrupt(task, TaskTimeout), LATE, "it is interrupted")
        os.write(write, b"1")

    def run(slot: Interruptible) -> bytes:
        task = Task()
        slot.interrupted_by = None
        thread = threading.Thread(target=end, args=(slot, task))
        thread.start()
        answer = slot.call(task, partial(os.read, read, 1))
        thread.join(LATE)
        return answer

    assert in_slot(lambda slot: b"".join(run(slot) for _ in range(20))) == b"1" * 20
    os.close(read)
    os.close(write)


def test_a_task_is_interrupted_once_and_only_while_it_runs() -> None:
    def run(slot: Interruptible) -> list[bool]:
        task, other = Task(), Task()
        before = slot.interrupt(task, TaskTimeout)

        def work() -> list[bool]:
            wrong = slot.interrupt(other, TaskTimeout)
            try:
                right = slot.interrupt(task, TaskTimeout)
            except TaskTimeout:
                right = True
            again = slot.interrupt(task, TaskInterrupted)
            return [wrong, right, again]

        inside = slot.call(task, work)
        slot.interrupted_by = None
        return [before, *inside, slot.interrupt(task, TaskTimeout)]

    assert in_slot(run) == [False, False, True, True, False]


class Hesitant(Interruptible):
    """Who interrupts it gives way to other threads between each two steps."""

    pauses: Sequence[float] = (0, 0, 1e-6, 5e-5)
    _kind: type[Interruption] | None = None

    @property
    def interrupted_by(self) -> type[Interruption] | None:
        return self._kind

    @interrupted_by.setter
    def interrupted_by(self, kind: type[Interruption] | None) -> None:
        if kind:
            hesitate(self.pauses)
        self._kind = kind
        if kind:
            hesitate(self.pauses)


class VeryHesitant(Hesitant):
    pauses = (0, 5e-4, 2e-3)


def hesitate(pauses: Sequence[float] = Hesitant.pauses) -> None:
    time.sleep(random.choice(pauses))


class Races:
    """Thousands of tasks in one thread, which others interrupt whenever they can; two in turn, with kinds of their own.

    A task marks that it returned by its last bytecode; half of them are a single C call.
    """

    def __init__(self) -> None:
        self.marks = bytearray(RACES)
        self.present: tuple[int, object] = (0, Task())
        self.is_over = False
        self.slot: Interruptible | None = None
        self.cut_short = self.absorbed = 0

    def interrupt(self) -> None:
        while not self.is_over:
            number, task = self.present
            if self.slot:
                self.slot.interrupt(task, self.kind_of(number))
            hesitate()

    @staticmethod
    def kind_of(number: int) -> type[Interruption]:
        return TaskInterrupted if number % 2 else TaskTimeout

    def run(self, slot: Interruptible) -> bool:
        self.slot = slot
        for number in range(RACES):
            slot.interrupted_by = None
            self.present = number, Task()
            time.sleep(0)
            self.run_one(slot, *self.present)
        self.is_over = True
        return True

    def run_one(self, slot: Interruptible, number: int, task: object) -> None:
        c_call = partial(self.marks.__setitem__, number, 1)
        kind: type[Interruption] | None = None
        try:
            slot.call(task, c_call if number % 4 < 2 else partial(self.dawdle_and_mark, number))
        except Interruption as error:
            kind = type(error)
        assert kind is (None if self.marks[number] else self.kind_of(number))
        self.cut_short += not self.marks[number]
        self.absorbed += self.marks[number] and slot.interrupted_by is not None

    def dawdle_and_mark(self, number: int) -> None:
        time.sleep(random.choice([0, 1e-4, 3e-4]))
        self.marks[number] = 1


def test_thousands_that_land_around_the_return() -> None:
    races = Races()
    threads = [threading.Thread(target=races.interrupt) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        in_slot(races.run, Hesitant)
    finally:
        races.is_over = True
        for thread in threads:
            thread.join(LATE)
    assert races.cut_short > 10
    assert races.absorbed > 10


# Coroutines


def run_interrupted(work: Callable[[], Any], kind: type[Interruption] = TaskTimeout) -> Any:
    """What comes of a task that is interrupted as soon as its code runs."""

    def run(slot: Interruptible) -> Any:
        task = Task()
        with interrupter(slot, task, kind, lambda: True):
            try:
                return interruption.call(task, work)
            except BaseException as error:  # noqa: BLE001 - it is what is asked for
                return error

    return in_slot(run)


@pytest.mark.parametrize("kind", [TaskTimeout, TaskInterrupted])
def test_a_coroutine_is_cancelled_where_it_waits_and_cleans_up(kind: type[Interruption]) -> None:
    cleaned = []

    async def clean_up() -> None:
        try:
            await asyncio.sleep(LATE)
        finally:
            await asyncio.sleep(0.001)
            cleaned.append(True)

    error = run_interrupted(clean_up, kind)
    assert type(error) is kind
    assert isinstance(error.__cause__, asyncio.CancelledError)
    assert "clean_up" in "".join(traceback.format_exception(error))
    assert cleaned


def test_a_coroutine_that_catches_the_cancel_returns() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(LATE)
        except asyncio.CancelledError:
            return "done"
        raise AssertionError

    assert run_interrupted(stubborn) == "done"


def test_a_coroutine_that_cancels_itself_was_not_interrupted() -> None:
    async def give_up() -> None:
        raise asyncio.CancelledError

    def run(slot: Interruptible) -> bool:
        with pytest.raises(asyncio.CancelledError):
            interruption.call(Task(), give_up)
        return True

    assert in_slot(run)


def test_a_coroutine_that_was_interrupted_as_it_was_made_never_begins() -> None:
    began = []

    async def begin() -> None:
        began.append(True)

    def make(slot: Interruptible, task: object) -> Any:
        coroutine = begin()
        with suppress(TaskTimeout):
            slot.interrupt(task, TaskTimeout)
        return coroutine

    def run(slot: Interruptible) -> bool:
        task = Task()
        with pytest.raises(TaskTimeout):
            interruption.call(task, partial(make, slot, task))
        return True

    assert in_slot(run)
    assert not began


def test_hundreds_that_land_around_the_end_of_a_coroutine() -> None:
    async def nap(seconds: float) -> None:
        await asyncio.sleep(seconds)

    present: list[object] = [Task()]
    over = threading.Event()
    ends: list[str] = []

    def run(slot: Interruptible) -> bool:
        def interrupt() -> None:
            while not over.is_set():
                hesitate()
                slot.interrupt(present[0], TaskTimeout)

        thread = threading.Thread(target=interrupt)
        thread.start()
        for number in range(300):
            slot.interrupted_by = None
            present[0] = Task()
            try:
                interruption.call(present[0], partial(nap, number % 3 * 1e-4))
            except TaskTimeout:
                ends.append("interrupted")
            else:
                ends.append("returned")
        over.set()
        thread.join(LATE)
        return True

    assert in_slot(run, VeryHesitant)
    assert len(ends) == 300
    assert "interrupted" in ends


def test_without_a_worker_it_is_a_plain_call() -> None:
    async def answer() -> int:
        return 7

    assert interruption.call(Task(), answer) == 7
    assert interruption.call(Task(), lambda: 8) == 8
    with pytest.raises(IndexError):
        interruption.call(Task(), [].pop)


# Shields


def test_what_is_shielded_is_whole() -> None:
    """As many things go in as come out, whenever interruptions come; and they do come, afterwards."""
    present: list[object] = [Task()]
    over = threading.Event()
    entered = left = 0
    interrupted: list[object] = []

    def both() -> None:
        nonlocal entered, left
        entered += 1
        time.sleep(3e-4)
        left += 1

    def work() -> None:
        while True:
            hesitate()
            shield.whole(both)

    def run(slot: Interruptible) -> bool:
        def interrupt() -> None:
            while not over.is_set():
                slot.interrupt(present[0], TaskTimeout)
                hesitate()

        thread = threading.Thread(target=interrupt)
        thread.start()
        for _ in range(200):
            slot.interrupted_by = None
            present[0] = Task()
            with suppress(TaskTimeout):
                slot.call(present[0], work)
            interrupted.append(slot.interrupted_by)
            assert entered == left
        over.set()
        thread.join(LATE)
        return True

    assert in_slot(run, VeryHesitant)
    assert interrupted == [TaskTimeout] * 200
    assert entered > 10


def test_what_came_meanwhile_is_raised_after_it_with_what_it_raised_itself() -> None:
    def run(slot: Interruptible) -> Any:
        task = Task()

        def fail() -> None:
            assert slot.interrupt(task, TaskTimeout)
            raise KeyError

        with pytest.raises(TaskTimeout) as caught:
            slot.call(task, partial(shield.whole, fail))
        return caught.value.__context__

    assert isinstance(in_slot(run), KeyError)


def test_a_call_to_redis_is_whole(redis_url: str) -> None:
    def run(slot: Interruptible) -> list[bool]:
        task, answers = Task(), []

        def ask(client: Any) -> None:
            assert slot.interrupt(task, TaskTimeout)
            answers.append(client.ping())

        with closing(Connection(redis_url)) as connection, pytest.raises(TaskTimeout):
            slot.call(task, partial(connection.once, ask))
        return answers

    assert in_slot(run) == [True]


def test_elsewhere_a_shield_is_a_plain_call() -> None:
    assert shield.whole(lambda: 7) == 7
    assert in_slot(lambda _: shield.whole(lambda: 8)) == 8


def test_patience_ends_with_its_call_though_an_interruption_lands_between() -> None:
    connection = Connection("redis://localhost:1", timeout_seconds=LATE)

    def lands_right_behind(slot: Interruptible) -> None:
        """C code sends it from within, so it lands when the next function begins."""
        sent: defaultdict[None, int] = defaultdict(partial(interruption._send, slot.ident, TaskTimeout))
        connection.persist(lambda: sent[None])

    def left(slot: Interruptible) -> float:
        with suppress(TaskTimeout):
            lands_right_behind(slot)
            list(map(str, range(2)))
        return patience._patience.until

    assert in_slot(left) == math.inf
