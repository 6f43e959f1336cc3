"""A worker of the hammer: slots, a heartbeat, and a log of all it did."""

import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from fairqued.connection import Connection, backoff_seconds
from fairqued.errors import QueueUnavailable, WorkerGone
from fairqued.lease import Completion, Exchange, Lease, StartedTask
from fairqued.state import Reason
from fairqued.store import Ended, Exchanged, Finished, Store
from tests.support.audit import audited_scripts

EXIT_GONE, EXIT_BROKEN = 3, 4
_IDLE_SECONDS = 0.02


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker is told."""

    url: str
    namespace: str
    queues: list[str]
    worker_id: str
    log: str
    slots: int
    lease_seconds: float
    heartbeat_seconds: float
    try_seconds: float


class WorkerLog:
    """One line an event, each written at once: what a killed worker had done stays readable."""

    def __init__(self, path: str) -> None:
        self._path = path

    def write(self, *words: object) -> None:
        """Write words without blanks as one line."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())
        os.close(descriptor)


def log_statuses(log: WorkerLog, completions: Sequence[Completion], answer: Exchanged) -> None:
    """Write down what was said to each completion."""
    for (task_id, status), completion in zip(answer.statuses, completions, strict=True):
        log.write("status", task_id, completion.fence, status)


class LoggingStore(Store):
    """A store that logs the status of each completion."""

    log: WorkerLog

    def exchange(  # noqa: PLR0913, PLR0917 - as that of Store
        self,
        worker: str,
        finished: Sequence[Finished],
        ended: Sequence[Ended],
        claim: int | None,
        most: int,
        queues: Sequence[str],
    ) -> Exchanged:
        """As that of Store."""
        answer = super().exchange(worker, finished, ended, claim, most, queues)
        log_statuses(self.log, [*finished, *ended], answer)
        return answer


class HammerWorker:
    """Keeps its slots filled until it is told to stop, or that it is gone."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._log = WorkerLog(config.log)
        store = LoggingStore(
            Connection(config.url, timeout_seconds=2 * config.try_seconds), config.namespace, audited_scripts()
        )
        store.log = self._log
        self._lease = Lease(store, config.queues, worker_id=config.worker_id, lease_seconds=config.lease_seconds)
        self._todo: SimpleQueue[StartedTask] = SimpleQueue()
        self._done: SimpleQueue[Completion] = SimpleQueue()
        self._busy = 0
        self._stopping = False

    def run(self) -> int:
        """Work, and return the exit code."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        try:
            self._register()
            for target in (self._beat, *[self._run_slot] * self._config.slots):
                threading.Thread(target=_guarded, args=(target,), daemon=True).start()
            self._serve()
        except WorkerGone:
            return self._end(EXIT_GONE)
        return self._end(0)

    def _end(self, code: int) -> int:
        self._log.write("exit", time.time())
        return code

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _register(self) -> None:
        while True:
            try:
                self._lease.register({"pid": os.getpid()})
            except QueueUnavailable:
                continue
            return

    def _serve(self) -> None:
        pending: list[Completion] = []
        waits, tries = False, 0
        while not self._stopping or self._busy or pending:
            pending += self._take_ended(waits)
            room = 0 if self._stopping else self._config.slots - self._busy
            waits = not pending and not room
            if waits:
                continue
            try:
                answer = self._lease.exchange(pending, room)
            except QueueUnavailable:
                time.sleep(backoff_seconds(tries) / 10)
                tries += 1
                continue
            pending, tries = [*answer.unreadable], 0
            self._begin(answer)
            waits = not answer.started

    def _take_ended(self, waits: bool) -> list[Completion]:  # noqa: FBT001
        ended: list[Completion] = []
        try:
            if waits:
                ended.append(self._done.get(timeout=_IDLE_SECONDS))
            while True:
                ended.append(self._done.get_nowait())
        except Empty:
            pass
        self._busy -= len(ended)
        return ended

    def _begin(self, answer: Exchange) -> None:
        self._busy += len(answer.started)
        for task in answer.started:
            self._todo.put(task)

    def _run_slot(self) -> None:
        while True:
            task = self._todo.get()
            self._log.write("start", task.task_id, task.record.fence, task.attempt, os.getpid(), time.time())
            time.sleep(task.payload["seconds"])
            self._log.write("end", task.task_id, task.record.fence, time.time())
            self._done.put(self._complete(task))

    def _complete(self, task: StartedTask) -> Completion:
        kind = task.payload["kind"]
        told = {"type": "Planned", "message": kind}
        if kind == "fails_once" and task.record.failures == 0:
            return task.retried(told, task.payload["seconds"])
        if kind == "fails" or (kind == "revived" and task.attempt == 1):
            return task.failed(Reason.ERROR, told)
        return task.finished(json.dumps([self._config.worker_id, task.record.fence]).encode())

    def _beat(self) -> None:
        while True:
            time.sleep(self._config.heartbeat_seconds)
            try:
                self._lease.heartbeat()
            except WorkerGone:
                os._exit(self._end(EXIT_GONE))
            except QueueUnavailable:
                continue


def _guarded(target: Any) -> None:
    """A thread that dies under a living heartbeat would hold its tasks for ever: it ends the process."""
    try:
        target()
    except BaseException:  # noqa: BLE001 - whatever it was, it is shown and ends the process
        traceback.print_exc()
        os._exit(EXIT_BROKEN)
