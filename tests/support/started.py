"""Started tasks made by hand, and a slot to run them in, without any Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Self

import orjson

from fairqued import Priority, StartedTask, TaskState
from fairqued.lease import Completion
from fairqued.record import Record
from fairqued.worker import TaskHandler
from fairqued.worker.executor import Executor
from fairqued.worker.vitals import Vitals
from fairqued.worker.watch import Slot, Watch

LATE = 30


def started(task_id: str = "t", *, failures: int = 0, **spec: Any) -> StartedTask:
    """A task that was popped, for alice: with `max_retries`, `timeout` and the like as they stand in a spec."""
    record = Record(
        task_id=task_id, state=TaskState.STARTED, cancel_asked=False, has_result=False, is_hidden=False,
        priority=Priority.NORMAL, reason=None, suspicion=0, crashes=0, losses=0, attempts=1 + failures,
        failures=failures, fence=7, settled=0, holder=1, enqueued_at=1.0, due=1.0, started_at=1.0, ended_at=0.0,
        nonce=b"12345678", user_id="alice", queue="default", spec=orjson.dumps(spec), error=b"",
    )  # fmt: skip
    return StartedTask(record, record.read_spec())


class Workshop:
    """One slot in a thread of its own, with its executor and its watch; used as a context manager."""

    def __init__(self, handler: TaskHandler, *, grace_seconds: float = LATE, vitals: Vitals | None = None) -> None:
        self.wedged = threading.Event()
        self._executor = Executor(handler, worker_id="w", unknown_function_seconds=1)
        self.watch = Watch(
            grace_seconds, vitals, forced_end=self._executor.forced_end, on_wedged=self.wedged.set
        )  # fmt: skip
        self._work: list[tuple[StartedTask, Future[Completion | None]]] = []
        self._arrived = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.slot: Slot | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._arrived.release()
        self._thread.join(LATE)
        assert not self._thread.is_alive(), "the slot hangs"
        self.watch.stop()

    def submit(self, task: StartedTask) -> Future[Completion | None]:
        """Run a task next; the future is how it ended."""
        future: Future[Completion | None] = Future()
        self._work.append((task, future))
        self._arrived.release()
        return future

    def run(self, task: StartedTask, meanwhile: Callable[[], object] = lambda: None) -> Completion | None:
        """Run a task to its end."""
        future = self.submit(task)
        meanwhile()
        return future.result(LATE)

    def stop(self, future: Future[Completion | None]) -> Completion | None:
        """Interrupt what runs as when its worker has to stop: how it ended."""
        while not future.done():
            self.watch.interrupt_all()
            time.sleep(0.001)
        return future.result()

    def _serve(self) -> None:
        self.slot = self.watch.open_slot()
        while self._arrived.acquire() and self._work:
            task, future = self._work.pop(0)
            future.set_result(self._executor.run(task, self.slot))
