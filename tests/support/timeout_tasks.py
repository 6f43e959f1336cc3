"""Tasks that are interrupted, and what they do about it. They say so in the folder of `process_tasks`."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from fairqued import RetryTask, TaskInterrupted, TaskTimeout, current_task, task
from tests.support.process_tasks import DIRECTORY_VARIABLE
from tests.support.wait import wait_until

LATE = 60
SOON = 0.1

logger = logging.getLogger("tests.timeout_tasks")


def note(name: str, text: str = "") -> None:
    """Leave a file for the test, whole or not at all."""
    path = Path(os.environ[DIRECTORY_VARIABLE]) / name
    unfinished = path.with_suffix(".part")
    unfinished.write_text(text)
    unfinished.rename(path)


def go_on(seconds: float = LATE) -> None:
    """Run Python code, as most tasks do."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.005)


@task
def run(began: str, seconds: float = LATE) -> None:
    """Go on, and clean up when it is interrupted."""
    note(began)
    try:
        go_on(seconds)
    except BaseException as error:
        note(f"{began}.end", type(error).__name__)
        raise
    finally:
        note(f"{began}.clean")


@task
async def wait(began: str) -> None:
    """The same as a coroutine."""
    note(began)
    try:
        await asyncio.sleep(LATE)
    except BaseException as error:
        await asyncio.sleep(0.01)
        note(f"{began}.end", type(error).__name__)
        raise
    finally:
        note(f"{began}.clean")


@task(timeout_seconds=SOON, max_retries=1, retry_backoff_seconds=0.01)
def be_quick_the_second_time() -> int:
    if current_task().attempt == 1:
        go_on()
    return current_task().attempt


@task(timeout_seconds=SOON)
def swallow_exceptions() -> None:
    while True:
        with suppress(Exception):
            go_on()


@task(timeout_seconds=SOON)
def make_the_best_of_it() -> str:
    try:
        go_on()
    except TaskTimeout:
        return "half of it"
    return "all of it"


@task(max_retries=1)
def ask_for_a_retry() -> int:
    if current_task().attempt == 1:
        raise RetryTask("not yet", delay_seconds=0.01)
    return current_task().attempt


@task(timeout_seconds=0.02)
def take_about_as_long_as_it_may(seconds: float) -> int:
    go_on(seconds)
    return 7


@task
def return_when_stopped(began: str) -> str:
    """Have a result even so."""
    note(began)
    try:
        go_on()
    except TaskInterrupted as error:
        return type(error).__name__
    return "too late"


@task(timeout_seconds=SOON)
def hang(began: str) -> None:
    """In a C call, where no interruption lands."""
    note(began, str(os.getpid()))
    time.sleep(LATE)


@task(timeout_seconds=SOON, max_retries=1, retry_backoff_seconds=0.01)
def hang_at_first(began: str) -> int:
    if current_task().attempt == 1:
        note(began, str(os.getpid()))
        time.sleep(LATE)
    return current_task().attempt


@task
def disobey(began: str) -> None:
    """Ignore every interruption."""
    note(began, str(os.getpid()))
    while True:
        with suppress(BaseException):
            go_on()


@task(timeout_seconds=SOON)
def hold_the_interpreter(began: str) -> None:
    """No other thread of the process runs from here on."""
    note(began, str(os.getpid()))
    ctypes.PyDLL(None).usleep(LATE * 1_000_000)


@task
def look_out_for_the_lease(began: str) -> list[bool]:
    """What `lease_lost` said until the test was content."""
    said: list[bool] = []

    def has_changed(name: str) -> Any:
        if not said or said[-1] != current_task().lease_lost:
            said.append(current_task().lease_lost)
            note(f"{began}.{len(said)}")
        return (Path(os.environ[DIRECTORY_VARIABLE]) / name).exists()

    note(began)
    wait_until(lambda: has_changed("enough"), LATE, "the gate is open")
    return said


@task(timeout_seconds=0.05)
def chatter() -> None:
    """Log until the time is over."""
    while True:
        logger.info("still here")
        current_task().logger.info("and here")
