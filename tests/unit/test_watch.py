"""The watch over running tasks: wills before they begin, and what is done about those that do not obey."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import orjson
import pytest

from fairqued import Reason, StartedTask
from fairqued.record import reason_number
from fairqued.store import Ended, Finished
from fairqued.worker import TaskHandler
from fairqued.worker.vitals import Vitals, Will, Wish
from tests.support.started import LATE, Workshop, started
from tests.support.wait import wait_until

SOON = 0.02


@pytest.fixture
def vitals() -> Iterator[Vitals]:
    vitals = Vitals()
    yield vitals
    vitals.close()


class Call(TaskHandler):
    """Its tasks are a function of the test."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work

    def handle(self, task: StartedTask) -> Any:  # noqa: ARG002
        return self._work()


class Deaf(TaskHandler):
    """Its tasks hang in a C call, where no interruption lands, until the gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Lock()
        self.gate.acquire()
        self.began = threading.Event()

    def handle(self, task: StartedTask) -> Any:
        self.began.set()
        try:
            self.gate.acquire()
        finally:
            self.gate.release()
        return task.task_id


def error_of(will: Will) -> dict[str, Any]:
    error: dict[str, Any] = orjson.loads(will.ended.error)
    return error


def test_a_task_has_left_its_will_before_it_begins(vitals: Vitals) -> None:
    seen: list[Will] = []
    with Workshop(Call(lambda: seen.extend(vitals.wills())), grace_seconds=5, vitals=vitals) as shop:
        shop.run(started("a", timeout=100))
        shop.run(started("b", timeout=200, max_retries=2, backoff=[3.0]))
        shop.run(started("c"))
    now = time.monotonic()
    first, second = seen
    assert first.ended[:4] == ("a", 7, "fail", reason_number(Reason.TIMEOUT))
    assert second.ended[:4] == ("b", 7, "retry", 3_000_000)
    assert now + 100 < first.hard_at <= now + 105
    assert error_of(first)["type"] == "fairqued.errors.TaskTimeout"
    assert error_of(first)["message"] == (
        "it ran for longer than its timeout_seconds (100), and did not end within 5 s after that"
    )
    assert vitals.wills() == []
    assert vitals.wish is Wish.NONE


def test_what_does_not_obey_is_told_once_and_its_will_says_where_it_hangs(
    vitals: Vitals, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Deaf()
    with Workshop(handler, grace_seconds=SOON, vitals=vitals) as shop:
        future = shop.submit(started("a", timeout=SOON, max_retries=1))
        assert shop.wedged.wait(LATE)
        assert shop.watch.wedged == 1
        assert vitals.wish is Wish.WEDGED
        (will,) = vitals.wills()
        assert will.ended.what == "retry"
        assert will.hard_at <= time.monotonic()
        assert "self.gate.acquire()" in error_of(will)["traceback"]
        handler.gate.release()
        end = future.result(LATE)
        assert isinstance(end, Ended)
        assert error_of(Will(end, 0))["type"] == "fairqued.errors.TaskTimeout", "it landed when the call was over"
        assert shop.watch.wedged == 0
        assert vitals.wills() == []
        assert shop.run(started("b")) == Finished("b", 7, b'"b"', 86_400_000)
    hangs, after_all = [each.getMessage() for each in caplog.records if "TaskTimeout" not in each.getMessage()]
    assert hangs.startswith("task a of alice hangs: it ran for longer than its timeout_seconds (0.02)")
    assert "its process is replaced\n" in hangs
    assert "self.gate.acquire()" in hangs
    assert after_all == "task a has ended after all"


def test_without_a_master_the_slot_is_lost_loudly(caplog: pytest.LogCaptureFixture) -> None:
    handler = Deaf()
    with Workshop(handler, grace_seconds=SOON) as shop:
        future = shop.submit(started(timeout=SOON))
        assert shop.wedged.wait(LATE)
        (said,) = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
        assert "nobody else can end this process: the slot is lost" in said
        handler.gate.release()
        future.result(LATE)


def test_a_cancelled_task_that_does_not_obey_leaves_a_will_too(vitals: Vitals) -> None:
    handler, task = Deaf(), started(max_retries=3)
    with Workshop(handler, grace_seconds=SOON, vitals=vitals) as shop:
        future = shop.submit(task)
        assert handler.began.wait(LATE)
        assert vitals.wills() == []
        task.cancelled.set()
        shop.watch.interrupt_cancelled()
        (will,) = vitals.wills()
        assert (will.ended.what, will.ended.number) == ("fail", reason_number(Reason.TIMEOUT))
        assert shop.wedged.wait(LATE)
        handler.gate.release()
        future.result(LATE)


def test_a_cancel_after_the_timeout_does_not_disturb_the_cleaning_up(vitals: Vitals) -> None:
    task, cleans, done = started(timeout=SOON), threading.Event(), threading.Event()

    def clean_up() -> str:
        try:
            wait_until(lambda: False, LATE, "its end")
        finally:
            cleans.set()
            wait_until(done.is_set, LATE, "it is disturbed")
        return "never"

    with Workshop(Call(clean_up), grace_seconds=LATE, vitals=vitals) as shop:
        future = shop.submit(task)
        assert cleans.wait(LATE)
        (before,) = vitals.wills()
        task.cancelled.set()
        shop.watch.interrupt_cancelled()
        shop.watch.interrupt_all()
        assert vitals.wills() == [before]
        done.set()
        end = future.result(LATE)
    assert isinstance(end, Ended)
    assert error_of(Will(end, 0))["type"] == "fairqued.errors.TaskTimeout"


def test_tasks_without_a_deadline_need_no_thread(vitals: Vitals) -> None:
    def watchers() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "watch"]

    with Workshop(Call(watchers), vitals=vitals) as shop:
        for _ in range(10):
            end = shop.run(started())
            assert isinstance(end, Finished)
            assert end.result == b"[]"
        shop.run(started(timeout=LATE))
        assert len(watchers()) == 1
    assert watchers() == []


def test_a_watch_that_could_not_start_its_thread_tries_again(vitals: Vitals, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = Deaf()
    with Workshop(handler, grace_seconds=SOON, vitals=vitals) as shop:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("can't start new thread")))
            end = shop.run(started("a", timeout=SOON))
        assert isinstance(end, Ended)
        assert error_of(Will(end, 0))["message"] == "can't start new thread"
        future = shop.submit(started("b", timeout=SOON))
        assert shop.wedged.wait(LATE)
        handler.gate.release()
        future.result(LATE)


def test_a_fork_that_comes_back_from_a_task_ends_and_leaves_the_will_alone(vitals: Vitals) -> None:
    codes: list[int] = []

    def has_ended(child: int) -> bool:
        pid, status = os.waitpid(child, os.WNOHANG)
        codes.append(os.waitstatus_to_exitcode(status))
        return pid == child

    def fork() -> None:
        if child := os.fork():
            try:
                wait_until(lambda: has_ended(child), 10, "it ends")
                assert len(vitals.wills()) == 1
            except AssertionError:
                os.kill(child, signal.SIGKILL)
                raise

    with Workshop(Call(fork), vitals=vitals) as shop:
        assert isinstance(shop.run(started("a", timeout=100)), Finished)
    assert codes[-1] == 1


def test_a_nearer_deadline_is_not_kept_waiting_by_a_farther_one() -> None:
    """The thread sleeps until the first deadline it knew of."""
    with Workshop(Call(lambda: wait_until(lambda: False, LATE, "its end"))) as shop:
        for timeout in (1e300, 3600):
            far = shop.submit(started(timeout=timeout))
            wait_until(lambda: shop.slot and shop.slot.task, LATE, "it runs")
            assert shop.stop(far) is None
        near = shop.run(started(timeout=SOON))
    assert isinstance(near, Ended)
    assert near.number == reason_number(Reason.TIMEOUT)


@pytest.mark.parametrize("folder", ["\udcff", "\u7530" * 1500], ids=["not UTF-8", "long"])
def test_a_place_whose_name_is_no_text_or_long_does_not_end_the_watch(vitals: Vitals, folder: str) -> None:
    handler = Deaf()
    names: dict[str, Any] = {"wait": handler.handle}
    exec(compile("def work(): wait(task)", f"/{folder}/tasks.py", "exec"), names)
    names["task"] = started("a")
    with Workshop(Call(names["work"]), grace_seconds=SOON, vitals=vitals) as shop:
        future = shop.submit(started("a", timeout=SOON))
        assert shop.wedged.wait(LATE)
        (will,) = vitals.wills()
        assert error_of(will)["message"].startswith("it ran for longer")
        assert "self.gate.acquire()" in error_of(will)["traceback"]
        assert vitals.wish is Wish.WEDGED
        handler.gate.release()
        future.result(LATE)
        assert isinstance(shop.run(started("b", timeout=SOON)), Ended | Finished)
