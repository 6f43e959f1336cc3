"""A worker: one loop that keeps its slots filled, threads that run tasks, a heartbeat that keeps its lease."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from redis.exceptions import RedisError

from fairqued.connection import backoff_seconds, translate
from fairqued.errors import FairquedError, LateClaim, WorkerGone
from fairqued.lease import DEFAULT_HEARTBEAT_SECONDS, DEFAULT_LEASE_SECONDS, Completion, Lease, StartedTask
from fairqued.queue import TaskQueue
from fairqued.tasks import DEFAULT_QUEUE
from fairqued.troubles import Troubles
from fairqued.validation import check_queue_name
from fairqued.worker.bell import BLOCK_SECONDS, Bell, Waker, wait_any
from fairqued.worker.executor import Executor
from fairqued.worker.handler import TaskHandler
from fairqued.worker.heartbeat import Heartbeat

logger = logging.getLogger("fairqued.worker")

EXIT_SLOT_DIED, EXIT_FENCED = 81, 82
_LOOK_AT_LEAST_EVERY_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """How a worker works. Times are seconds."""

    queues: Sequence[str] = (DEFAULT_QUEUE,)
    threads: int = 8
    lease_seconds: float = DEFAULT_LEASE_SECONDS
    heartbeat_seconds: float = DEFAULT_HEARTBEAT_SECONDS
    unknown_function_seconds: float = 3600
    worker_id: str | None = None
    """Given by a master, which then puts back what is left; a worker of one's own makes one and puts back itself."""
    pool: str = ""


class Worker:
    """Runs the tasks of some queues with a handler: `Worker(queue, handler).run()`.

    Duties: take as many tasks as there are free slots, never more; deliver completions together with the next claim;
    sleep until a task ends here or the bell rings; while Redis is away keep completions, and deliver them later.
    """

    def __init__(self, queue: TaskQueue, handler: TaskHandler, settings: WorkerSettings | None = None) -> None:
        self._settings = settings or WorkerSettings()
        store = queue._store  # noqa: SLF001 - a worker is the other side of the queue
        names = [check_queue_name(name) for name in self._settings.queues]
        self.worker_id = self._settings.worker_id or f"{os.urandom(8).hex()}.0.0"
        self._connection = store.connection
        self._lease = Lease(store, names, worker_id=self.worker_id, lease_seconds=self._settings.lease_seconds)
        self._handler = handler
        self._executor = Executor(
            handler, worker_id=self.worker_id, unknown_function_seconds=self._settings.unknown_function_seconds
        )
        self._bell = Bell(store.connection, [store.keys.of("bell", name) for name in names])
        self._inbox: SimpleQueue[StartedTask | None] = SimpleQueue()
        self._outbox: SimpleQueue[Completion] = SimpleQueue()
        self._running: dict[str, StartedTask] = {}
        self._undelivered: list[Completion] = []
        self._is_registered = False
        self._is_asleep = False
        self._may_be_more = True
        self._look_at = 0.0
        self._next_due = float("inf")
        self._troubles = Troubles(logger, meanwhile="; running tasks go on, their completions are kept")
        self._failed_tries = 0
        self._gone: WorkerGone | None = None
        self._stop_by: float | None = None
        self._waker = Waker()

    def register(self) -> None:
        """Make this worker known, with what its handler can run; `run` does it unless it was done before.

        Raises QueueUnavailable.
        """
        about = {
            "host": socket.gethostname(), "pid": os.getpid(), "pool": self._settings.pool,
            "queues": self._lease.queues, "threads": self._settings.threads,
        }  # fmt: skip
        self._lease.register(about, self._handler.functions())
        self._is_registered = True

    def run(self) -> int:
        """Work until `stop`; return how many tasks did not end in time, and still run in their threads.

        A worker of a master leaves them to it: it puts them back once this process is gone. One's own process goes on,
        so they are not handed back at once, to run elsewhere beside themselves: they are left to the end of the lease,
        renewed no more. A master then puts them back as lost, and what they return after `run` is not delivered.

        Raises:
            WorkerGone: this worker was declared dead; its tasks run elsewhere by then.
            QueueUnavailable: Redis is away; in one's own process the lease is left to end by itself.
        """
        if not self._is_registered:
            self.register()
        heartbeat = Heartbeat(self._lease, self._settings.heartbeat_seconds, self._troubles, on_gone=self._fenced)
        heartbeat.start()
        slots = ThreadPoolExecutor(self._settings.threads, thread_name_prefix="slot")
        for _ in range(self._settings.threads):
            slots.submit(self._serve)
        try:
            while not self._is_done():
                self._turn()
            self._tell_what_is_left()
        finally:
            heartbeat.stop()
            for _ in range(self._settings.threads):
                self._inbox.put(None)
            slots.shutdown(wait=not self._running)
            self._bell.reset()
            self._waker.close()
            if self._settings.worker_id is None:
                self._connection.give_up_at = float("inf")
        if self._gone:
            raise self._gone
        if self._settings.worker_id is None and not self._running:
            self._lease.give_up("drain")
        return len(self._running)

    def stop(self, within_seconds: float) -> None:
        """Take no more tasks, and let those that run end within this time. Safe in a signal handler."""
        by = time.monotonic() + within_seconds
        self._stop_by = self._connection.give_up_at = by if self._stop_by is None else min(by, self._stop_by)
        self._waker.ring()

    # The loop

    @property
    def _free(self) -> int:
        return self._settings.threads - len(self._running)

    def _is_done(self) -> bool:
        if self._gone:
            return True
        if self._stop_by is None:
            return False
        self._collect()
        return not (self._running or self._undelivered) or time.monotonic() >= self._stop_by

    def _turn(self) -> None:
        self._collect()
        wanted = self._wanted()
        if self._undelivered or (wanted and self._may_be_more):
            self._exchange(wanted)
        else:
            self._sleep()

    def _collect(self) -> None:
        while True:
            try:
                ended = self._outbox.get_nowait()
            except Empty:
                return
            self._running.pop(ended.task_id, None)
            self._undelivered.append(ended)

    def _wanted(self) -> int:
        """How many tasks to ask for. An armed bell keeps one slot free: its marker may be the last."""
        if self._stop_by is not None:
            return 0
        return self._free - self._bell.is_armed

    def _exchange(self, wanted: int) -> None:
        try:
            answer = self._lease.exchange(self._undelivered, wanted)
        except WorkerGone as error:
            self._fenced(error)
            return
        except LateClaim:
            raise  # somebody else works under our name
        except FairquedError as error:
            self._pause_after("exchange", error)
            return
        self._undelivered = list(answer.unreadable)
        self._troubles.end("exchange")
        self._failed_tries = 0
        if wanted:
            now = time.monotonic()
            self._may_be_more = False
            self._look_at = now + _LOOK_AT_LEAST_EVERY_SECONDS
            self._next_due = float("inf") if answer.next_due_seconds is None else now + answer.next_due_seconds
        for task in answer.started:
            self._running[task.task_id] = task
            self._inbox.put(task)

    def _sleep(self) -> None:
        """Until something ends here, the bell rings, the next delayed task is due, or somebody stops us."""
        now = time.monotonic()
        if self._stop_by is not None:
            self._bell.reset()  # its marker is for those who take tasks
        elif self._free and not self._bell.is_armed and not self._arm(now):
            return
        wake_at = now + BLOCK_SECONDS if self._stop_by is None else self._stop_by
        if self._bell.is_armed and not self._may_be_more:
            wake_at = min(wake_at, self._next_due)
        self._is_asleep = True
        sources: list[Waker | Bell] = [self._waker, self._bell] if self._bell.is_armed else [self._waker]
        ready = wait_any(sources, 0 if not self._outbox.empty() else wake_at - now)
        self._is_asleep = False
        if self._waker in ready:
            self._waker.drain()
            time.sleep(0)  # a turn for the other slots: what ends at the same time is delivered together
        if self._bell.is_armed:
            self._hear(rang=self._bell in ready)

    def _arm(self, now: float) -> bool:
        try:
            self._bell.arm(min(self._next_due - now, BLOCK_SECONDS))
        except (RedisError, OSError) as error:
            self._pause_after("bell", error)
            return False
        return True

    def _hear(self, *, rang: bool) -> None:
        try:
            if rang and self._bell.answer():
                self._may_be_more = True
        except (RedisError, OSError) as error:
            self._pause_after("bell", error)
            return
        if self._bell.is_overdue:
            self._pause_after("bell", TimeoutError("Redis does not answer"))
            return
        if time.monotonic() >= min(self._look_at, self._next_due):
            self._may_be_more = True

    # In trouble

    def _pause_after(self, work: str, error: Exception) -> None:
        """Wait a little, longer each time, while local completions go on gathering; but not once told to stop."""
        self._troubles.begin(work, translate(error, self._connection.url))
        self._bell.reset()
        self._may_be_more = True
        pause = backoff_seconds(self._failed_tries)
        self._failed_tries += 1
        if self._stop_by is not None:
            pause = min(pause, self._stop_by - time.monotonic())
        if wait_any([self._waker], pause):
            self._waker.drain()

    def _tell_what_is_left(self) -> None:
        if self._undelivered:
            ids = ", ".join(each.task_id for each in self._undelivered)
            logger.warning("these tasks ended, could not be completed, and will run again: %s", ids)
        if self._running:
            what = "are left to the end of the lease" if self._settings.worker_id is None else "are handed back"
            logger.warning("these tasks did not end in time, and %s: %s", what, ", ".join(self._running))

    # Other threads

    def _serve(self) -> None:
        """A slot: run tasks from the inbox until told to end. A slot that breaks would hold its task for ever."""
        try:
            while (task := self._inbox.get()) is not None:
                self._outbox.put(self._executor.run(task))
                if self._is_asleep:
                    self._is_asleep = False  # one ring is enough for all that end meanwhile
                    self._waker.ring()
        except BaseException:
            logger.exception("a slot died; this process ends, so that its tasks are put back")
            os._exit(EXIT_SLOT_DIED)

    def _fenced(self, error: WorkerGone) -> None:
        self._gone = error
        if self._settings.worker_id is not None:
            logger.error("%s; this process ends", error)
            os._exit(EXIT_FENCED)
        self._waker.ring()
