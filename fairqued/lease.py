"""The workers' side of a queue: a registered worker that claims tasks, holds them, and completes them."""

from __future__ import annotations

import logging
import math
import os
import random
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import orjson

from fairqued.encoding import dumps, is_unicode, to_json_value
from fairqued.errors import (
    BadSignature,
    CorruptRecord,
    FairquedError,
    NotAllowed,
    PayloadTooLarge,
    QueueUnavailable,
    SchemaTooNew,
    WorkerGone,
)
from fairqued.record import FENCE_FIELD, HEADER, Record, reason_number
from fairqued.state import Reason
from fairqued.store import CHUNK, Ended, Finished, Store
from fairqued.tasks import DEFAULT_BACKOFF_MAX_SECONDS, DEFAULT_BACKOFF_SECONDS, DEFAULT_RESULT_TTL_SECONDS
from fairqued.troubles import Troubles
from fairqued.validation import check_count

if TYPE_CHECKING:
    from fairqued.signing import Signer  # imported by those who have keys

logger = logging.getLogger("fairqued.lease")

Completion = Finished | Ended

MAX_RESULT_BYTES = 262_144
MAX_ERROR_BYTES = 16_384
MAX_DELAY_SECONDS = 10 * 365 * 86_400.0
DEFAULT_LEASE_SECONDS, DEFAULT_HEARTBEAT_SECONDS = 15.0, 3.0
SHORTEST_LEASE_SECONDS, SHORTEST_HEARTBEAT_SECONDS, HEARTBEATS_A_LEASE = 4, 0.01, 3


@dataclass(slots=True)
class StartedTask:
    """A task that this worker holds."""

    record: Record
    spec: Mapping[str, Any]
    cancelled: threading.Event = field(default_factory=threading.Event)
    lease_lost: threading.Event = field(default_factory=threading.Event)

    @property
    def task_id(self) -> str:
        """The id of the task."""
        return self.record.task_id

    @property
    def user_id(self) -> str:
        """Whose task it is."""
        return self.record.user_id

    @property
    def attempt(self) -> int:
        """Which start this is; the first is 1."""
        return self.record.attempts

    @property
    def payload(self) -> Any:
        """What a task for a handler carries."""
        return self.spec.get("payload")

    @property
    def meta(self) -> Mapping[str, str]:
        """What the client put beside the arguments."""
        meta: Mapping[str, str] = self.spec.get("meta", {})
        return meta

    @property
    def retries_left(self) -> int:
        """How many more failures the task may have before it is FAILED."""
        return max(0, int(self.spec.get("max_retries", 0)) - self.record.failures)

    @property
    def timeout_seconds(self) -> float | None:
        """How long an attempt may run; None: for ever."""
        timeout = self.spec.get("timeout")
        return None if timeout is None else float(timeout)

    def finished(self, result: bytes) -> Finished:
        """This attempt's completion with an encoded result; empty for null."""
        wanted = self.spec.get("store_result", True)
        ttl_ms = int(self.spec.get("result_ttl", DEFAULT_RESULT_TTL_SECONDS) * 1000)
        return Finished(self.task_id, self.record.fence, result if wanted else b"", max(1, ttl_ms))

    def failed(self, reason: Reason, error: Mapping[str, Any]) -> Ended:
        """This attempt's end without another one."""
        return Ended(self.task_id, self.record.fence, "fail", reason_number(reason), encode_error(error))

    def retried(self, error: Mapping[str, Any], delay_seconds: float | None = None) -> Ended:
        """This attempt's end with another one after a delay, by default that of the task's backoff."""
        delay = self.backoff_seconds() if delay_seconds is None else min(MAX_DELAY_SECONDS, max(0.0, delay_seconds))
        return Ended(self.task_id, self.record.fence, "retry", int(delay * 1e6), encode_error(error))

    def handed_back(self, error: Mapping[str, Any], delay_seconds: float) -> Ended:
        """Give the task back for another worker, without counting an attempt."""
        return Ended(self.task_id, self.record.fence, "hand_back", int(delay_seconds * 1e6), encode_error(error))

    def backoff_seconds(self) -> float:
        """The pause before the next attempt: exponential with jitter from a base, or the next of a list."""
        backoff = self.spec.get("backoff", DEFAULT_BACKOFF_SECONDS)
        most = self.spec.get("backoff_max", DEFAULT_BACKOFF_MAX_SECONDS)
        if isinstance(backoff, list):
            return float(min(backoff[min(self.record.failures, len(backoff) - 1)], most)) if backoff else 0.0
        jitter = random.uniform(0.5, 1.0)  # noqa: S311
        return float(min(most, backoff * 2 ** min(self.record.failures, 40)) * jitter)


def encode_error(error: Mapping[str, Any]) -> bytes:
    """An error as JSON of at most 16 KiB: a long traceback loses its middle, a long message its end."""
    message = str(error.get("message", "")).encode(errors="backslashreplace").decode()
    shown = {**error, "message": message[: MAX_ERROR_BYTES // 8]}
    room = MAX_ERROR_BYTES // 4
    traceback = str(shown.get("traceback", "")).encode(errors="backslashreplace").decode()
    if len(traceback) > room:
        traceback = f"{traceback[: room // 2]}\n  …\n{traceback[-room // 2 :]}"
    if traceback:
        shown["traceback"] = traceback
    return orjson.dumps(shown)


@dataclass(frozen=True, slots=True)
class Exchange:
    """What one exchange brought: new tasks, completions of those not to be run, and when the next is due."""

    started: list[StartedTask]
    unreadable: list[Ended]
    next_due_seconds: float | None


class Lease:
    """What a worker holds, under one id: tasks come in by `exchange`, leave by it, and are kept by `heartbeat`.

    `exchange` belongs to one thread, `heartbeat` may be called from another.
    """

    def __init__(
        self, store: Store, queues: Sequence[str], *, worker_id: str, lease_seconds: float = DEFAULT_LEASE_SECONDS,
        signer: Signer | None = None,
    ) -> None:  # fmt: skip
        """With a `signer`, tasks that are not signed with one of its keys are refused."""
        self.store, self.queues, self.worker_id = store, list(queues), worker_id
        self._signer = signer
        self._lease_us = int(lease_seconds * 1e6)
        self._lock = threading.Lock()
        self._held: dict[str, StartedTask] = {}
        self._unreadable: dict[str, int] = {}
        """Fences of popped tasks that cannot be read: held, too, until their completion is acknowledged."""
        self._doubtful: dict[str, StartedTask] = {}
        """Tasks that may belong to others by now: nobody could renew the lease."""
        self._renewed_at = math.inf
        self._is_gone = False
        self._received = 0

    def register(self, info: Mapping[str, Any], functions: Mapping[str, bytes] | None = None) -> None:
        """Make this worker known. Raises WorkerGone if it was declared dead before."""
        self._renewed_at = time.monotonic()
        self.store.register(self.worker_id, self._lease_us, orjson.dumps(info), functions or {})

    @property
    def held(self) -> int:
        """How many tasks this worker holds: running, or ended and not yet acknowledged."""
        return len(self._held)

    def exchange(self, completions: Sequence[Completion], most: int) -> Exchange:
        """Deliver completions and take up to `most` tasks (none: 0), in one round trip and one try.

        After QueueUnavailable call it again with the same completions: it then repeats the same claim. Raises
        WorkerGone when this worker was declared dead; its tasks are marked as lost then.
        """
        finished = [each for each in completions if isinstance(each, Finished)]
        ended = [each for each in completions if isinstance(each, Ended)]
        claim = self._received + 1 if most else None
        try:
            answer = self.store.exchange(self.worker_id, finished, ended, claim, most, self.queues)
        except WorkerGone:
            self._lose()
            raise
        popped = answer.popped
        started, unreadable = _read_all(popped.tasks, self._signer) if popped else ([], [])
        with self._lock:
            for task_id, status in answer.statuses:
                self._held.pop(task_id, None)
                self._unreadable.pop(task_id, None)
                if status == "stale":
                    logger.warning("task %s: its completion was refused, another worker has it", task_id)
                elif status.startswith("SCHEMA"):
                    logger.error("its completion was refused: %s", status.removeprefix("SCHEMA "))
            if popped:
                self._held.update((task.task_id, task) for task in started)
                self._unreadable.update((each.task_id, each.fence) for each in unreadable)
                self._received += 1
        return Exchange(started, unreadable, popped.next_due_seconds if popped else None)

    def heartbeat(self) -> None:
        """Keep the lease, in one try, and mark the tasks that were cancelled or lost.

        Raises WorkerGone when this worker was declared dead; its tasks are marked as lost then.
        """
        with self._lock:
            held = {task_id: task.record.fence for task_id, task in self._held.items()} | self._unreadable
            received = self._received
        began_at = time.monotonic()
        try:
            orders = self.store.heartbeat(self.worker_id, self._lease_us, received, held)
        except WorkerGone:
            self._lose()
            raise
        self._renewed_at = began_at
        for order, task_id in orders:
            task = self._held.get(task_id)
            if task is None or task.record.fence != held[task_id]:
                continue
            if order == "cancel":
                task.cancelled.set()
            else:
                self._doubtful.pop(task_id, None)
                task.lease_lost.set()

    def judge(self, vouched_at: float = 0.0) -> bool:
        """Whether the lease is over by our own clock, so that others may have the tasks: they are marked as lost.

        `vouched_at` is when somebody else last renewed it (monotonic seconds). Once it is renewed, tasks that
        are not known to be lost are held again. Belongs to the thread that heartbeats.
        """
        is_over = self._is_gone or time.monotonic() - max(self._renewed_at, vouched_at) > self._lease_us / 1e6
        if is_over:
            self._doubt()
        else:
            self._trust()
        return is_over

    def _doubt(self) -> None:
        with self._lock:
            for task_id, task in self._held.items():
                if not task.lease_lost.is_set():
                    self._doubtful[task_id] = task
                    task.lease_lost.set()

    def _lose(self) -> None:
        """This worker was declared dead: nobody can renew its lease any more."""
        self._is_gone = True
        self._doubt()

    def _trust(self) -> None:
        with self._lock:
            if self._is_gone:  # as an exchange was just told
                return
            for task in self._doubtful.values():
                task.lease_lost.clear()
            self._doubtful.clear()

    def give_up(self, why: str) -> None:
        """Leave: what is still held goes back to its queues."""
        while self.store.reclaim(self.worker_id, why)[1]:
            pass


def _read(task_id: str, raw: bytes, signer: Signer | None) -> StartedTask:
    """Raises CorruptRecord, SchemaTooNew or BadSignature for what is not to be run."""
    if not is_unicode(task_id):
        raise CorruptRecord(f"task {task_id}: its id is not UTF-8 text")
    record = Record.parse(task_id, raw)
    if signer:
        signer.check(record)
    return StartedTask(record, record.read_spec())


def _read_all(tasks: Iterable[tuple[str, bytes]], signer: Signer | None) -> tuple[list[StartedTask], list[Ended]]:
    started, unreadable = [], []
    for task_id, raw in tasks:
        try:
            started.append(_read(task_id, raw, signer))
        except (CorruptRecord, SchemaTooNew, BadSignature) as error:
            logger.error("not run: %s", error, extra={"task": task_id})  # noqa: TRY400 - it tells all
            fence = HEADER.unpack_from(raw)[FENCE_FIELD]
            reason = Reason.BAD_SIGNATURE if isinstance(error, BadSignature) else Reason.CORRUPT
            told = {"type": type(error).__name__, "message": str(error)}
            unreadable.append(Ended(task_id, fence, "fail", reason_number(reason), encode_error(told)))
    return started, unreadable


class QueueLease:
    """A worker in one's own process: `with queue.lease(queues=["default"]) as lease: …`.

    A thread keeps the lease alive. Its methods may be called from several threads; they go one after the other. On
    leaving the block, tasks that were not completed go back to their queues without counting an attempt, also those
    that other threads still work on: end these threads first, or such a task runs twice at once.
    """

    def __init__(
        self, store: Store, queues: Sequence[str], *, lease_seconds: float = DEFAULT_LEASE_SECONDS,
        heartbeat_seconds: float = DEFAULT_HEARTBEAT_SECONDS, signer: Signer | None = None,
    ) -> None:  # fmt: skip
        worker_id = f"{os.urandom(8).hex()}.0.0"
        self._lease = Lease(store, queues, worker_id=worker_id, lease_seconds=lease_seconds, signer=signer)
        self._heartbeat_seconds = heartbeat_seconds
        self._one_at_a_time = threading.Lock()
        self._left = threading.Event()
        self._troubles = Troubles(logger, meanwhile=f"; {self._lease.worker_id} cannot renew its lease")
        self._thread = threading.Thread(target=self._keep_alive, name="fairqued-lease", daemon=True)
        self._gone: WorkerGone | None = None

    def __enter__(self) -> Self:
        info = {"host": socket.gethostname(), "pid": os.getpid(), "queues": self._lease.queues}
        self._lease.register(info)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join()
        try:
            self._lease.give_up("drain")
        except FairquedError as trouble:
            if error is None:
                raise
            logger.warning("%s; what %s still held is put back when its lease ends", trouble, self._lease.worker_id)

    def dequeue(self, most: int = 1) -> list[StartedTask]:
        """Start up to `most` tasks (1 to 200), whatever is ready now.

        Raises:
            InvalidTask: `most` is no such number.
            WorkerGone: the lease was lost.
            QueueUnavailable: Redis does not answer; what it may have started is answered by the next call.
        """
        return self._exchange([], check_count(most, "most", CHUNK, least=1))

    def finish_task(self, task: StartedTask, result: Any = None) -> None:
        """Complete a task with a JSON result. Raises InvalidTask if it is none, WorkerGone if the lease was lost."""
        self._exchange([task.finished(encode_result(result, None))], 0)

    def fail_task(self, task: StartedTask, error: BaseException | str, *, retry: bool = True) -> None:
        """End an attempt with an error: it is retried while `max_retries` allows. Raises WorkerGone as above."""
        told = {"type": type(error).__name__, "message": str(error)} if isinstance(error, BaseException) else {
            "type": "TaskError", "message": error,
        }  # fmt: skip
        again = retry and task.retries_left > 0
        self._exchange([task.retried(told) if again else task.failed(Reason.ERROR, told)], 0)

    def _exchange(self, completions: Sequence[Completion], most: int) -> list[StartedTask]:
        deadline = time.monotonic() + self._lease.store.connection.timeout_seconds
        with self._one_at_a_time:
            answer = self._exchange_by(deadline, completions, most)
            if answer.unreadable:
                self._fail_unreadable(deadline, answer.unreadable)
            return answer.started

    def _fail_unreadable(self, deadline: float, ends: Sequence[Ended]) -> None:
        """Let no trouble with them hide what was started with them."""
        try:
            self._exchange_by(deadline, ends, 0)
        except (QueueUnavailable, NotAllowed) as error:
            logger.warning("%s; tasks that cannot be read stay with this lease until it ends", error)

    def _exchange_by(self, deadline: float, completions: Sequence[Completion], most: int) -> Exchange:
        if self._gone:
            raise self._gone
        return self._lease.store.connection.persist(lambda: self._lease.exchange(completions, most), deadline)

    def _keep_alive(self) -> None:
        while not self._left.wait(self._heartbeat_seconds):
            try:
                self._lease.heartbeat()
            except WorkerGone as error:
                self._gone = error
                return
            except FairquedError as error:
                self._troubles.begin("heartbeat", error)
            else:
                self._troubles.end("heartbeat")
            self._lease.judge()


def encode_result(result: Any, annotation: Any) -> bytes:
    """A task's result as JSON; empty for None.

    Raises:
        InvalidTask: it is not JSON.
        PayloadTooLarge: it exceeds 256 KiB.
    """
    if result is None:
        return b""
    encoded = dumps(to_json_value(result, annotation, "the result"))
    if len(encoded) > MAX_RESULT_BYTES:
        raise PayloadTooLarge(
            f"the result takes {len(encoded)} bytes, at most {MAX_RESULT_BYTES} are allowed: "
            "store it elsewhere and return a key to it"
        )
    return encoded
