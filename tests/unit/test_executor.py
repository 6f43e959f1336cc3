"""What comes of an attempt, above all of one that was interrupted."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from fairqued import Reason, RetryTask, StartedTask, TaskInterrupted, TaskTimeout
from fairqued.lease import Completion
from fairqued.record import reason_number
from fairqued.store import Ended, Finished
from fairqued.worker import TaskHandler
from tests.support.started import LATE, Workshop, started

SOON = 0.02


class Call(TaskHandler):
    """Its task is a function of the test."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.began = threading.Event()

    def handle(self, task: StartedTask) -> Any:  # noqa: ARG002
        self.began.set()
        return self.work()


def go_on() -> None:
    while True:
        time.sleep(0.001)


def clean_up_badly() -> None:
    try:
        go_on()
    finally:
        raise ValueError("cleaning up failed")


def catch() -> str:
    try:
        go_on()
    except (TaskTimeout, TaskInterrupted) as error:
        return type(error).__name__
    return "never"


async def wait() -> None:
    await asyncio.sleep(LATE)


def end_of(work: Callable[[], Any], **spec: Any) -> Completion | None:
    with Workshop(Call(work)) as shop:
        return shop.run(started(**spec))


def told(completion: Completion | None) -> dict[str, Any]:
    assert isinstance(completion, Ended)
    error: dict[str, Any] = orjson.loads(completion.error)
    return error


@pytest.mark.parametrize("work", [go_on, wait], ids=["sync", "async"])
def test_when_its_time_is_over_it_fails(work: Callable[[], Any]) -> None:
    end = end_of(work, timeout=SOON)
    assert isinstance(end, Ended)
    assert (end.what, end.number) == ("fail", reason_number(Reason.TIMEOUT))
    assert told(end)["type"] == "fairqued.errors.TaskTimeout"
    assert told(end)["message"] == "The task ran for longer than its timeout_seconds."
    assert work.__name__ in told(end)["traceback"]


@pytest.mark.parametrize("work", [go_on, wait], ids=["sync", "async"])
def test_when_its_time_is_over_it_is_tried_again_while_retries_are_left(work: Callable[[], Any]) -> None:
    end = end_of(work, timeout=SOON, max_retries=1, backoff=[5.0])
    assert isinstance(end, Ended)
    assert (end.what, end.number) == ("retry", 5_000_000)
    with Workshop(Call(work)) as shop:
        end = shop.run(started(timeout=SOON, max_retries=1, failures=1))
    assert isinstance(end, Ended)
    assert end.what == "fail"


def test_a_task_that_catches_it_has_finished() -> None:
    end = end_of(catch, timeout=SOON)
    assert isinstance(end, Finished)
    assert end.result == b'"TaskTimeout"'


def test_what_cleaning_up_raises_counts() -> None:
    end = end_of(clean_up_badly, timeout=SOON)
    assert isinstance(end, Ended)
    assert (end.what, end.number) == ("fail", reason_number(Reason.ERROR))
    assert told(end)["type"] == "ValueError"
    assert "TaskTimeout" in told(end)["traceback"]


@pytest.mark.parametrize("work", [go_on, wait, clean_up_badly], ids=["sync", "async", "clumsy"])
def test_a_stopped_task_is_not_completed(work: Callable[[], Any]) -> None:
    with Workshop(handler := Call(work)) as shop:
        future = shop.submit(started(max_retries=3))
        assert handler.began.wait(LATE)
        assert shop.stop(future) is None
        handler.work = lambda: 7
        assert shop.run(started()) == Finished("t", 7, b"7", 86_400_000)


def test_a_stopped_task_that_catches_it_has_finished() -> None:
    with Workshop(handler := Call(catch)) as shop:
        future = shop.submit(started())
        assert handler.began.wait(LATE)
        end = shop.stop(future)
    assert isinstance(end, Finished)
    assert end.result == b'"WorkerStopping"'


@pytest.mark.parametrize("work", [go_on, wait], ids=["sync", "async"])
def test_a_cancelled_task_ends_without_a_retry(work: Callable[[], Any], caplog: pytest.LogCaptureFixture) -> None:
    """What becomes of it is for the script to say."""
    task = started(max_retries=3)
    with Workshop(handler := Call(work)) as shop:
        future = shop.submit(task)
        assert handler.began.wait(LATE)
        shop.watch.interrupt_cancelled()
        assert not future.done()
        task.cancelled.set()
        shop.watch.interrupt_cancelled()
        end = future.result(LATE)
    assert isinstance(end, Ended)
    assert end.what == "fail"
    assert told(end)["type"] == "fairqued.errors.TaskInterrupted"
    assert "task t of alice was cancelled: fairqued.errors.TaskInterrupted" in caplog.text


@pytest.mark.parametrize("error", [ValueError, StopIteration, GeneratorExit, SystemExit, KeyboardInterrupt])
def test_what_a_task_raises_is_told(error: type[BaseException]) -> None:
    def fail() -> None:
        raise error("why")

    end = end_of(fail)
    assert isinstance(end, Ended)
    assert (end.what, end.number) == ("fail", reason_number(Reason.ERROR))
    assert (told(end)["type"], told(end)["message"]) == (error.__name__, "why")


def test_an_interruption_of_ones_own_is_an_error() -> None:
    def interrupt() -> None:
        raise TaskInterrupted

    end = end_of(interrupt, max_retries=3)
    assert isinstance(end, Ended)
    assert (end.what, end.number) == ("fail", reason_number(Reason.ERROR))


def test_a_task_can_ask_for_another_attempt() -> None:
    def ask() -> None:
        raise RetryTask("not yet", delay_seconds=2.5)

    end = end_of(ask, max_retries=1)
    assert isinstance(end, Ended)
    assert (end.what, end.number) == ("retry", 2_500_000)
    assert told(end)["message"] == "not yet"
    end = end_of(ask)
    assert isinstance(end, Ended)
    assert (end.what, end.number) == ("fail", reason_number(Reason.ERROR))


TEN_YEARS = 10 * 365 * 86_400_000_000


@pytest.mark.parametrize(("seconds", "number"), [(1e300, TEN_YEARS), (math.inf, TEN_YEARS), (-1e300, 0), (math.nan, 0)])
def test_a_delay_that_no_record_could_hold_is_bounded(seconds: float, number: int) -> None:
    def ask() -> None:
        raise RetryTask(delay_seconds=seconds)

    end = end_of(ask, max_retries=1)
    assert isinstance(end, Ended)
    assert (end.what, end.number) == ("retry", number)


def test_without_a_delay_it_waits_as_after_a_failure() -> None:
    def ask() -> None:
        raise RetryTask

    end = end_of(ask, max_retries=1, backoff=[4.0])
    assert isinstance(end, Ended)
    assert (end.what, end.number) == ("retry", 4_000_000)


@pytest.mark.parametrize("spec", [{"timeout": "soon"}, {"timeout": [1]}, {"max_retries": "x", "timeout": 1}], ids=str)
def test_a_spec_that_makes_no_sense_fails_the_task_alone(spec: dict[str, Any]) -> None:
    with Workshop(Call(lambda: 7)) as shop:
        end = shop.run(started(**spec))
        assert isinstance(end, Ended)
        assert (end.what, end.number) == ("fail", reason_number(Reason.ERROR))
        assert isinstance(shop.run(started()), Finished)
