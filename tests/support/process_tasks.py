"""Tasks for tests with real daemons. Where a task says what it did, it says so in the folder `$FAIRQUED_TEST_DIR`."""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from fairqued import current_task, task
from tests.support import foreign_tasks  # noqa: F401 - so that it is decorated in every worker
from tests.support.ledger import Ledger
from tests.support.wait import wait_until

DIRECTORY_VARIABLE = "FAIRQUED_TEST_DIR"
LATE = 60

logger = logging.getLogger("tests.process_tasks")


@dataclass(frozen=True)
class Start:
    """One execution that began."""

    task_id: str
    attempt: int
    pid: int
    at: float


def ledger_of(directory: Path) -> Ledger:
    """The executions that ended."""
    return Ledger(directory / "ledger")


def starts_of(directory: Path) -> list[Start]:
    """The executions that began, in their order."""
    path = directory / "starts"
    return [Start(**json.loads(line)) for line in path.read_bytes().splitlines()] if path.exists() else []


def _directory() -> Path:
    return Path(os.environ[DIRECTORY_VARIABLE])


def _begin() -> None:
    """Note that this task began, in one append."""
    running = current_task()
    start = Start(running.task_id, running.attempt, os.getpid(), time.time())
    with (_directory() / "starts").open("ab", buffering=0) as file:
        file.write(json.dumps(asdict(start)).encode() + b"\n")


@task
def noop() -> None:
    """Do nothing."""


@task
def add(a: int, b: int) -> int:
    return a + b


@task
def work(seconds: float) -> None:
    """Sleep, and write that down."""
    _begin()
    running = current_task()
    with ledger_of(_directory()).execution(running.task_id, running.attempt):
        time.sleep(seconds)


@task
def hold(gate: str) -> int:
    """Run until the test opens the gate, write that down, and return the process."""
    _begin()
    running = current_task()
    with ledger_of(_directory()).execution(running.task_id, running.attempt):
        wait_until((_directory() / gate).exists, LATE, f"the gate {gate} is open")
    return os.getpid()


@task
def sleep(seconds: float) -> None:
    time.sleep(seconds)


@task
def spin(seconds: float) -> None:
    """Use the CPU."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pass


@task
def hold_gil(seconds: float) -> None:
    """No other thread of the process runs meanwhile, as in a C extension."""
    _begin()
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


@task
def who() -> str:
    """Whose task this is."""
    return current_task().user_id


@task
def say_when() -> float:
    """The time of the execution."""
    return time.time()


@task
def boom(message: str) -> None:
    raise ValueError(message)


@task
def boom_long(length: int) -> None:
    raise ValueError("x" * length)


class UnspeakableError(Exception):
    """Its text raises."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@task
def boom_unspeakably() -> None:
    raise UnspeakableError


class InterruptingError(Exception):
    """Its text ends whoever asks for it."""

    def __str__(self) -> str:
        raise KeyboardInterrupt


@task
def boom_interrupting() -> None:
    raise InterruptingError


@task(max_retries=1, retry_backoff_seconds=0.01)
def fail_once() -> int:
    """The first attempt raises, the second returns its number."""
    if current_task().attempt == 1:
        raise ValueError("not yet")
    return current_task().attempt


@task
def leave(code: int) -> None:
    sys.exit(code)


@task
def interrupt() -> None:
    raise KeyboardInterrupt


@task
def vanish(code: int) -> None:
    """End the process without a word; only the first attempt."""
    _begin()
    if current_task().attempt == 1:
        os._exit(code)


@task
def crash() -> None:
    """End the process by a segmentation fault; only the first attempt."""
    _begin()
    if current_task().attempt == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(LATE)


@task
def break_slots() -> None:
    """From the next task on, the machinery of this worker's slots fails."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_name != "_serve":
        frame = frame.f_back
    assert frame is not None
    frame.f_locals["self"]._executor = None


@task
def text(length: int) -> str:
    return "x" * length


@task
def an_object() -> Any:
    return object()


@task
async def double(number: int) -> int:
    await asyncio.sleep(0.01)
    return 2 * number


@task
def moment() -> datetime:
    return datetime(2024, 2, 29, 12, 0, tzinfo=UTC)


@task
def later(when: datetime) -> str:
    """Needs a real datetime."""
    return when.isoformat()


@task
def log_lines(words: str) -> None:
    """One line by the task's logger, one by an ordinary one, one printed."""
    current_task().logger.info("%s by the task's logger", words, extra={"colour": "red"})
    logger.warning("%s by an ordinary logger", words)
    print(f"{words} printed")  # noqa: T201


@task
def descriptors() -> dict[str, str]:
    """What the worker's descriptors lead to."""
    found = {}
    for fd in Path("/proc/self/fd").iterdir():
        try:
            found[fd.name] = str(fd.readlink())
        except FileNotFoundError:  # that of the listing
            continue
    return found


@task
def pass_on(a: int, b: int) -> str:
    """Enqueue another task, for the user of this one: the id of that task."""
    return add.enqueue(a, b).task_id


@task
def process_id() -> int:
    return os.getpid()


_taken: list[bytes] = []


@task
def take_memory(megabytes: int) -> None:
    """Let this process take so much more memory, for good."""
    _taken.append(os.urandom(1_000_000) * megabytes)


@task
def spin_in_c(seconds: float) -> None:
    """Use the CPU in one call that lets no other thread of the process run."""
    began = time.monotonic()
    sum(range(2_000_000))
    sum(range(int(2_000_000 * seconds / (time.monotonic() - began))))


@task
def leave_threads(number: int) -> int:
    """Start threads that never end, of which half keep their process alive: how many threads there are."""
    for index in range(number):
        threading.Thread(target=_sleep_for_ever, daemon=index % 2 == 0).start()
    return threading.active_count()


def _sleep_for_ever() -> None:
    while True:
        time.sleep(LATE)


@task
def poison(how: str) -> None:
    """End the process, each time."""
    _begin()
    match how:
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(LATE)


@task
def take_more_memory_than_allowed(megabytes: int) -> int:
    """Ask for much more than a limit that is set for so long."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with Path("/proc/self/statm").open() as file:
        pages = int(file.read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 50_000_000, limits[1]))
    try:
        return len(bytes(megabytes * 1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@task
def end_a_process_of_its_own() -> int | None:
    """Fork by multiprocessing, terminate that process, and return how it ended."""
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(LATE,))
    process.start()
    process.terminate()
    process.join(LATE / 2)
    return process.exitcode
