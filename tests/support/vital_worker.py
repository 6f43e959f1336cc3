"""A worker process whose master is the test: forked, with vitals shared, reclaimed by hand."""

from __future__ import annotations

import logging
import os
import signal
import time
import uuid
from pathlib import Path
from types import FrameType
from typing import Any, Self

from fairqued import TaskQueue
from fairqued.worker import FunctionTaskHandler, Worker, WorkerSettings
from fairqued.worker.vitals import Vitals
from tests.support import process_tasks, timeout_tasks
from tests.support.daemon import LATE
from tests.support.wait import wait_until

DRAIN_SECONDS = 20
IMPORTS = [process_tasks.__name__, timeout_tasks.__name__]


class VitalWorker:
    """Forks the worker, and plays its master; a context manager that leaves no process behind."""

    def __init__(self, redis_url: str, namespace: str, directory: Path, **settings: Any) -> None:
        """Tasks note things in `directory`, and the worker keeps its log there."""
        self.worker_id = f"{uuid.uuid4().hex[:8]}.1.1"
        self.vitals = Vitals()
        self.queue = TaskQueue(redis_url, namespace=namespace, user_id="alice")
        self._directory = directory
        self._settings = WorkerSettings(worker_id=self.worker_id, vitals=self.vitals, **settings)
        self.pid = 0
        self.status: int | None = None

    def __enter__(self) -> Self:
        self.pid = os.fork()
        if self.pid == 0:
            self._live()
        wait_until(
            lambda: self.worker_id in {each.worker_id for each in self.queue.stats().workers}, LATE, "it is there"
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        self.queue.close()
        self.vitals.close()

    def _live(self) -> None:
        code = 1
        try:
            logging.basicConfig(filename=self._directory / "log", level=logging.INFO, force=True)
            os.environ[process_tasks.DIRECTORY_VARIABLE] = str(self._directory)
            worker = Worker(self.queue, FunctionTaskHandler(IMPORTS), self._settings)

            def stop(_number: int, _frame: FrameType | None) -> None:
                worker.stop(DRAIN_SECONDS)

            signal.signal(signal.SIGTERM, stop)
            worker.run()
            code = 0
        finally:
            os._exit(code)

    def kill(self) -> None:
        """End it as its master does when it does not end by itself."""
        os.kill(self.pid, signal.SIGKILL)
        assert self.wait() == signal.SIGKILL

    def terminate(self) -> None:
        """Tell it to stop."""
        os.kill(self.pid, signal.SIGTERM)

    def wait(self) -> int:
        """Wait for its end: its wait status."""
        if self.status is None:
            wait_until(self._reap, LATE, "it ends")
        assert self.status is not None
        return self.status

    def _reap(self) -> bool:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.status = status
        return bool(pid)

    def reclaim(self, why: str = "drain") -> None:
        """What its master does after its death."""
        assert self.status is not None, "it lives"
        due = [will.ended for will in self.vitals.wills() if will.hard_at <= time.monotonic()]
        self.queue._store.reclaim(self.worker_id, why, wills=due)
