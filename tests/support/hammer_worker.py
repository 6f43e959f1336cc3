"""The workers of the hammer: a process forked on demand, with slots, a heartbeat, and a log of all it did.

Run as a module it is the nursery: one process without threads that has imported everything and forks workers, so that
a new one takes milliseconds. It obeys lines of JSON on its standard input, and kills its children when that closes.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Self

from fairqued.connection import Connection, backoff_seconds
from fairqued.errors import QueueUnavailable, WorkerGone
from fairqued.lease import Completion, Exchange, Lease, StartedTask
from fairqued.state import Reason
from fairqued.store import Ended, Exchanged, Finished, Store
from tests.support.audit import audited_scripts

EXIT_GONE, EXIT_BROKEN = 3, 4
_IDLE_SECONDS = 0.02
_WAIT_SECONDS = 20


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
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, *words: object) -> None:
        """Write words without blanks as one line."""
        os.write(self._descriptor, (" ".join(map(str, words)) + "\n").encode())


class LoggingStore(Store):
    """A store that logs the status of each completion."""

    log: WorkerLog

    def exchange(
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
        fences = [each.fence for each in (*finished, *ended)]
        for (task_id, status), fence in zip(answer.statuses, fences, strict=True):
            self.log.write("status", task_id, fence, status)
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
        self._lease = Lease(
            store, config.queues, worker_id=config.worker_id, lease_seconds=config.lease_seconds
        )
        self._todo: SimpleQueue[StartedTask] = SimpleQueue()
        self._done: SimpleQueue[Completion] = SimpleQueue()
        self._busy = 0
        self._stopping = False

    def run(self) -> int:
        """Work, and return the exit code."""
        signal.signal(signal.SIGTERM, self._stop)
        try:
            self._register()
            for target in (self._beat, *[self._run_slot] * self._config.slots):
                threading.Thread(target=_guarded, args=(target,), daemon=True).start()
            self._serve()
        except WorkerGone:
            return EXIT_GONE
        return 0

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
                time.sleep(backoff_seconds(tries))
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
                os._exit(EXIT_GONE)
            except QueueUnavailable:
                continue


def _guarded(target: Any) -> None:
    """A thread that dies under a living heartbeat would hold its tasks for ever: it ends the process."""
    try:
        target()
    except BaseException:  # noqa: BLE001 - whatever it was, it is shown and ends the process
        traceback.print_exc()
        os._exit(EXIT_BROKEN)


def _fork(config: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = EXIT_BROKEN
    try:
        code = HammerWorker(WorkerConfig(**config)).run()
    except BaseException:  # noqa: BLE001 - as above
        traceback.print_exc()
    os._exit(code)


def _wait(pid: int, living: set[int], flags: int) -> int | None:
    found, status = os.waitpid(pid, flags)
    if not found:
        return None
    living.discard(pid)
    return os.waitstatus_to_exitcode(status)


def main() -> None:
    """Obey: `fork` a worker, `poll` or `wait` for one; each is answered by a line of JSON."""
    living: set[int] = set()
    for line in sys.stdin:
        what, about = json.loads(line)
        if what == "fork":
            answer: int | None = _fork(about)
            living.add(answer or 0)
        else:
            answer = _wait(about, living, 0 if what == "wait" else os.WNOHANG)
        print(json.dumps(answer), flush=True)  # noqa: T201 - the answer
    for pid in tuple(living):
        os.kill(pid, signal.SIGKILL)
        _wait(pid, living, 0)


class Nursery:
    """The parent of all workers, from the test's side."""

    def __init__(self, errors: Path) -> None:
        self._errors = errors.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.hammer_worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            text=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip

    def fork(self, config: WorkerConfig) -> int:
        """Start a worker and return its pid."""
        pid = self._ask("fork", asdict(config))
        assert pid is not None
        return pid

    def poll(self, pid: int) -> int | None:
        """The exit code of a worker that ended."""
        return self._ask("poll", pid)

    def wait(self, pid: int) -> int:
        """The exit code of a worker that was killed."""
        code = self._ask("wait", pid)
        assert code is not None
        return code

    def close(self) -> None:
        """Kill what is left, and end."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(_WAIT_SECONDS)
        self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, what: str, about: Any) -> int | None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([what, about]) + "\n")
        self._process.stdin.flush()
        answer: int | None = json.loads(self._process.stdout.readline())
        return answer


if __name__ == "__main__":
    main()
