"""The worker's side of a chaos run: tasks that do what their payload says, and a log of each worker process."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from fairqued.lease import StartedTask
from fairqued.store import Ended, Exchanged, Finished, Store
from fairqued.worker import TaskHandler
from tests.support.hammer_worker import WorkerLog, log_statuses

VARIABLE = "FAIRQUED_CHAOS_LOGS"
"""Names the folder of the logs, one for each worker, called by its id."""


class PlannedError(Exception):
    """This attempt was to fail."""


class ChaosHandler(TaskHandler):
    """Takes the time that a task is to take, and ends as it is to end; the result says who did it."""

    def handle(self, task: StartedTask) -> Any:
        log, fence, payload = this_process.log, task.record.fence, task.payload
        log.write("start", task.task_id, fence, task.attempt, os.getpid(), time.time())
        try:
            time.sleep(payload["seconds"])
        finally:
            log.write("end", task.task_id, fence, time.time())
        match payload["kind"]:
            case "fails_once" if task.record.failures == 0:
                raise PlannedError
            case "fails":
                raise PlannedError
            case "revived" if task.attempt == 1:
                raise PlannedError
        return [this_process.worker_id, fence]

    def is_retryable(self, task: StartedTask, error: BaseException) -> bool:
        return task.payload["kind"] == "fails_once" and isinstance(error, PlannedError)


class WorkerProcess:
    """What this process is, once it is a worker."""

    worker_id: str
    log: WorkerLog

    def begin(self, worker_id: str) -> None:
        """Write down that it lives, what it hears, and that it ends by itself."""
        self.worker_id = worker_id
        self.log = WorkerLog(str(Path(os.environ[VARIABLE]) / worker_id))
        self.log.write("born", os.getpid(), time.time())
        self._write_down_exit()
        self._write_down_answers()

    def _write_down_exit(self) -> None:
        leave = os._exit

        def exit_and_say_so(status: int) -> NoReturn:
            self.log.write("exit", status, time.time())
            leave(status)

        os._exit = exit_and_say_so

    def _write_down_answers(self) -> None:
        exchange, heartbeat = Store.exchange, Store.heartbeat

        def logged_exchange(
            store: Store, worker: str, finished: Sequence[Finished], ended: Sequence[Ended], *rest: Any
        ) -> Exchanged:
            answer = exchange(store, worker, finished, ended, *rest)
            log_statuses(self.log, [*finished, *ended], answer)
            return answer

        def logged_heartbeat(store: Store, *args: Any) -> list[tuple[str, str]]:
            orders = heartbeat(store, *args)
            self.log.write("beat", time.time())
            return orders

        Store.exchange = logged_exchange  # type: ignore[method-assign, assignment]
        Store.heartbeat = logged_heartbeat  # type: ignore[method-assign, assignment]


this_process = WorkerProcess()
