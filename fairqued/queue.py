"""`TaskQueue`: the client of one namespace, and the handles it gives out."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, Unpack, get_args

from fairqued.connection import DEFAULT_TIMEOUT_SECONDS, Connection
from fairqued.context import ambient_user, current_task
from fairqued.encoding import from_json_value, loads
from fairqued.errors import (
    ConfigError,
    DuplicateTask,
    EnqueueIncomplete,
    FairquedError,
    InvalidResult,
    InvalidTask,
    NotAllowed,
    ResultExpired,
    ResultTimeout,
    TaskCancelled,
    TaskFailed,
    TaskNotFound,
)
from fairqued.info import QueueStats, TaskInfo, microseconds_of
from fairqued.keys import DEFAULT_NAMESPACE
from fairqued.lease import (
    DEFAULT_HEARTBEAT_SECONDS,
    DEFAULT_LEASE_SECONDS,
    HEARTBEATS_A_LEASE,
    SHORTEST_HEARTBEAT_SECONDS,
    SHORTEST_LEASE_SECONDS,
    QueueLease,
)
from fairqued.record import Record
from fairqued.state import Reason, TaskState
from fairqued.store import CHUNK, NewTask, Store
from fairqued.tasks import DEFAULT_QUEUE, Task, TaskOptions
from fairqued.validation import check_count, check_id, check_queue_name, check_seconds, shown

if TYPE_CHECKING:
    from fairqued.signing import Signer

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
IfExists = Literal["raise", "ignore", "replace"]

IF_EXISTS = get_args(IfExists)
URL_VARIABLE, NAMESPACE_VARIABLE = "FAIRQUED_REDIS_URL", "FAIRQUED_NAMESPACE"
_CHUNK_BYTES = 1_048_576
_FIRST_LOOK_SECONDS, _LONGEST_LOOK_SECONDS = 0.002, 0.25


class TaskHandle(Generic[R_co]):
    """A task that was enqueued, by its id."""

    def __init__(self, queue: TaskQueue, task_id: str, returns: Any = None) -> None:
        self.task_id = task_id
        self._queue, self._returns = queue, returns

    def __repr__(self) -> str:
        return f"TaskHandle({self.task_id!r})"

    def info(self) -> TaskInfo:
        """Everything about the task. Raises TaskNotFound."""
        return self._queue.get(self.task_id)

    def state(self) -> TaskState:
        """Where the task stands. Raises TaskNotFound."""
        return self._queue._read(self.task_id).state  # noqa: SLF001 - a handle is part of its queue

    def cancel(self) -> bool:
        """Cancel the task: True if it is cancelled, or will be when its worker notices. Raises TaskNotFound."""
        return self._queue.cancel(self.task_id)

    def retry(self) -> bool:
        """Let a FAILED or CANCELLED task run again; False in any other state. Raises TaskNotFound."""
        return self._queue.retry(self.task_id)

    def result(self, timeout_seconds: float | None = None, *, inside_task: bool = False) -> R_co:
        """Wait for the task's end and return what it returned.

        Inside a running task this is refused unless `inside_task` is true: when all slots wait for tasks that need a
        slot, none ever ends.

        Raises:
            TaskFailed: it failed for good.
            TaskCancelled: it was cancelled.
            ResultExpired: it finished, but its result is no longer kept or was never stored.
            ResultTimeout: it did not end in time.
            InvalidResult: its result is not of the type that the function declares.
            TaskNotFound: there is no such task (any more).
            NotAllowed: called inside a task.
        """
        if current_task().is_running and not inside_task:
            raise NotAllowed("result() inside a task can wait for ever; pass inside_task=True if it cannot here")
        seconds = math.inf if timeout_seconds is None else check_seconds(timeout_seconds, "timeout_seconds")
        deadline = time.monotonic() + seconds
        pause = _FIRST_LOOK_SECONDS
        while True:
            record, result = self._queue._read_with_result(self.task_id)  # noqa: SLF001
            if record.state.is_final:
                return self._outcome(record, result)
            left = deadline - time.monotonic()
            if left <= 0:
                raise ResultTimeout(f"task {self.task_id} is still {record.state} after {seconds:g} s")
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, _LONGEST_LOOK_SECONDS)

    def _outcome(self, record: Record, result: bytes | None) -> R_co:
        if record.state is TaskState.CANCELLED:
            raise TaskCancelled(f"task {self.task_id} was cancelled")
        if record.state is TaskState.FAILED:
            error = record.read_error()
            reason = record.reason or Reason.ERROR
            raise TaskFailed(
                str(error.get("type", "")), str(error.get("message", "")) or f"task {self.task_id} failed: {reason}",
                str(error.get("traceback", "")), reason,
            )  # fmt: skip
        if result is not None:
            return self._restored(result)
        if record.has_result or record.read_spec().get("store_result") is False:
            raise ResultExpired(f"task {self.task_id} finished, but its result is not kept (any more)")
        return None  # type: ignore[return-value]  # the result was null

    def _restored(self, result: bytes) -> R_co:
        try:
            value: R_co = from_json_value(loads(result), self._returns)
        except ValueError as error:
            raise InvalidResult(f"task {self.task_id}: its result is not {self._returns}: {error}") from error
        return value


class TaskQueue:
    """The client of one namespace with all its queues. Thread-safe; opens nothing until its first call."""

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str | None = None,
        user_id: str | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        signing_keys_file: str | Path | None = None,
    ) -> None:
        """`url` falls back to `$FAIRQUED_REDIS_URL`, `namespace` to `$FAIRQUED_NAMESPACE`, else `fairque`.

        `timeout_seconds` is the deadline of one call with all its retries. `user_id` is whose task it is where nothing
        else says so. With `signing_keys_file` (else `$FAIRQUED_SIGNING_KEYS_FILE`, else the systemd credential
        `fairqued-signing-keys`), which is read at the first enqueue, tasks are signed. Raises ConfigError when no URL
        is given, or a bad one.
        """
        url = url or os.environ.get(URL_VARIABLE)
        if not url:
            raise ConfigError(f"no Redis URL: give one to TaskQueue(), or set ${URL_VARIABLE}")
        self.namespace = namespace or os.environ.get(NAMESPACE_VARIABLE) or DEFAULT_NAMESPACE
        self.user_id = check_id(user_id, "user_id") if user_id is not None else None
        self._store = Store(Connection(url, timeout_seconds=timeout_seconds), self.namespace)
        self._signing_keys_file = signing_keys_file

    def __reduce__(self) -> tuple[Callable[[], TaskQueue], tuple[()]]:
        url, seconds = self._store.connection.url, self._store.connection.timeout_seconds
        again = partial(
            TaskQueue, url, namespace=self.namespace, user_id=self.user_id, timeout_seconds=seconds,
            signing_keys_file=self._signing_keys_file,
        )  # fmt: skip
        return again, ()

    @cached_property
    def _signer(self) -> Signer | None:
        """Signs what is enqueued here, and checks what is started; None without keys. Raises ConfigError."""
        from fairqued.signing import load_signer  # noqa: PLC0415 - nothing that the import of fairqued should pay for

        return load_signer(self.namespace, self._signing_keys_file, os.environ)

    def enqueue(
        self, task: Task[R], /, *, if_exists: IfExists = "raise", **options: Unpack[TaskOptions]
    ) -> TaskHandle[R]:
        """Accept one task. Enqueuing the same `task_id` twice leaves one task.

        Raises:
            InvalidTask, PayloadTooLarge: nothing was enqueued.
            DuplicateTask: the id exists, or existed a moment ago (`if_exists="ignore"`: its handle is returned;
                `"replace"`: a task that still waits is replaced).
            QueueUnavailable: Redis did not answer in time; the task may or may not have been accepted.
        """
        return self._push([self._prepare(task, options)], _checked(if_exists))[0]

    def enqueue_many(
        self, tasks: Iterable[Task[R]], /, *, if_exists: IfExists = "raise", **options: Unpack[TaskOptions]
    ) -> list[TaskHandle[R]]:
        """Accept many tasks, in chunks of up to 200 that are each accepted whole or not at all.

        Every task is checked before the first one is sent. Raises as `enqueue`, and EnqueueIncomplete with the handles
        of those that were accepted when a later chunk fails.
        """
        _checked(if_exists)
        if not isinstance(tasks, Iterable):
            raise InvalidTask(f"expected several tasks, found {shown(tasks)}; enqueue(…) takes a single one")
        prepared = [self._prepare(task, options) for task in tasks]
        _refuse_twins(new for new, _ in prepared)
        handles: list[TaskHandle[R]] = []
        for start, end in _chunks([len(new.spec) for new, _ in prepared]):
            try:
                handles += self._push(prepared[start:end], if_exists)
            except FairquedError as error:
                if not handles:
                    raise
                told = f"{len(handles)} of {len(prepared)} tasks were enqueued, then: {error}"
                raise EnqueueIncomplete(handles, told) from error
        return handles

    def handle(self, task_id: str) -> TaskHandle[Any]:
        """A handle for an id; makes no round trip."""
        return TaskHandle(self, check_id(task_id, "task_id"))

    def get(self, task_id: str) -> TaskInfo:
        """Everything about a task. Raises TaskNotFound."""
        return TaskInfo.of(self._read(task_id))

    def cancel(self, task_id: str) -> bool:
        """Cancel a task: True if it is cancelled, or will be when its worker notices; False if it had ended before.

        Raises TaskNotFound.
        """
        return self._status(task_id, self._store.cancel([check_id(task_id, "task_id")])) in ("cancelled", "asked")

    def retry(self, task_id: str) -> bool:
        """Let a FAILED or CANCELLED task run again with a clean slate; False in any other state.

        Raises TaskNotFound.
        """
        statuses = self._store.retry(os.urandom(8), [check_id(task_id, "task_id")])
        return self._status(task_id, statuses) in ("queued", "already")

    def stats(self, *, most_users: int = 100) -> QueueStats:
        """Depths, counters, workers, and up to `most_users` users with waiting work in each queue."""
        return QueueStats.of(self._store.stats(check_count(most_users, "most_users")))

    def lease(
        self,
        queues: Sequence[str] = (DEFAULT_QUEUE,),
        *,
        lease_seconds: float = DEFAULT_LEASE_SECONDS,
        heartbeat_seconds: float = DEFAULT_HEARTBEAT_SECONDS,
    ) -> QueueLease:
        """A worker in this process, for use in a `with` block. Raises InvalidTask for what no lease can be."""
        if isinstance(queues, str) or not isinstance(queues, Iterable):
            raise InvalidTask(f"queues: expected a list of names, found {shown(queues)}")
        names = [check_queue_name(name, "queues") for name in queues]
        _check_times(lease_seconds, heartbeat_seconds)
        return QueueLease(
            self._store, names, lease_seconds=lease_seconds, heartbeat_seconds=heartbeat_seconds, signer=self._signer
        )

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        self._store.connection.close()

    def _prepare(self, task: Task[R], options: TaskOptions) -> tuple[NewTask, Task[R]]:
        if not isinstance(task, Task):
            raise InvalidTask(f"expected a Task, found {shown(task)}; a task function makes one with .task(…)")
        task = task.with_options(options)
        user_id = task.user_id or ambient_user() or self.user_id
        if user_id is None:
            raise InvalidTask(
                "user_id: whose task is it? Give user_id to the task or to TaskQueue, or enqueue within as_user(…)"
            )
        task_id = task.task_id or os.urandom(12).hex()
        is_own_id = task.task_id is None
        spec = task.encode_spec()
        if self._signer:
            spec = self._signer.sign(task_id, user_id, task.queue, spec)
        return NewTask(task_id, user_id, task.queue, int(task.priority), _due(task), is_own_id, spec), task

    def _push(self, prepared: Sequence[tuple[NewTask, Task[R]]], if_exists: str) -> list[TaskHandle[R]]:
        self._store.push(os.urandom(8), if_exists, [new for new, _ in prepared])
        return [TaskHandle(self, new.task_id, task.returns) for new, task in prepared]

    def _read(self, task_id: str) -> Record:
        return self._read_with_result(task_id)[0]

    def _read_with_result(self, task_id: str) -> tuple[Record, bytes | None]:
        record, result = self._store.read_with_result(check_id(task_id, "task_id"))
        if record is None:
            raise _not_found(task_id)
        return record, result

    def _status(self, task_id: str, statuses: Sequence[str]) -> str:
        if statuses[0] == "missing":
            raise _not_found(task_id)
        return statuses[0]


def _not_found(task_id: str) -> TaskNotFound:
    return TaskNotFound(f"task {task_id} is not known: it never existed, or its retention is over")


def _checked(if_exists: str) -> str:
    if if_exists not in IF_EXISTS:
        raise InvalidTask(f"if_exists: expected one of {', '.join(IF_EXISTS)}, found {shown(if_exists)}")
    return if_exists


def _check_times(lease_seconds: float, heartbeat_seconds: float) -> None:
    check_seconds(heartbeat_seconds, "heartbeat_seconds")
    if heartbeat_seconds < SHORTEST_HEARTBEAT_SECONDS:
        least = SHORTEST_HEARTBEAT_SECONDS
        raise InvalidTask(f"heartbeat_seconds: expected at least {least:g}, found {heartbeat_seconds:g}")
    check_seconds(lease_seconds, "lease_seconds")
    if lease_seconds < max(SHORTEST_LEASE_SECONDS, HEARTBEATS_A_LEASE * heartbeat_seconds):
        raise InvalidTask(
            f"lease_seconds: expected at least {SHORTEST_LEASE_SECONDS:g}, and at least {HEARTBEATS_A_LEASE} times "
            f"heartbeat_seconds ({heartbeat_seconds:g}), found {lease_seconds:g}"
        )


def _refuse_twins(tasks: Iterable[NewTask]) -> None:
    seen: set[str] = set()
    for task in tasks:
        if not task.has_own_id and task.task_id in seen:
            raise DuplicateTask(f"task {task.task_id} is twice in one call")
        seen.add(task.task_id)


def _due(task: Task[Any]) -> str:
    if task.run_at is not None:
        return f"@{microseconds_of(task.run_at)}"
    if task.delay_seconds:
        return f"+{int(task.delay_seconds * 1e6)}"
    return ""


def _chunks(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Cut a list of specs of these sizes into chunks: start and end of each."""
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and (index - start >= CHUNK or total + size > _CHUNK_BYTES):
            yield start, index
            start, total = index, 0
        total += size
    if start < len(sizes):
        yield start, len(sizes)


_default: TaskQueue | None = None


def use_as_default(queue: TaskQueue) -> None:
    """Make `queue` the default one of this process: a worker's own queue, so that its tasks can enqueue others."""
    global _default  # noqa: PLW0603 - one default for the process is what it is about
    _default = queue


def default_queue() -> TaskQueue:
    """The queue of the worker that this process is, else that of `$FAIRQUED_REDIS_URL` and `$FAIRQUED_NAMESPACE`.

    Raises ConfigError if it is neither a worker nor has the variable.
    """
    return _default or environment_queue()


@cache
def environment_queue() -> TaskQueue:
    """The TaskQueue of `$FAIRQUED_REDIS_URL` and `$FAIRQUED_NAMESPACE`. Raises ConfigError if no URL is set."""
    return TaskQueue()
