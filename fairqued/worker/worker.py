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

from fairqued.connection import backoff_seconds
from fairqued.errors import QueueUnavailable, WorkerGone
from fairqued.lease import DEFAULT_HEARTBEAT_SECONDS, DEFAULT_LEASE_SECONDS, Completion, Lease, StartedTask
from fairqued.queue import TaskQueue
from fairqued.tasks import DEFAULT_QUEUE
from fairqued.validation import check_queue_name
from fairqued.worker.bell import BLOCK_SECONDS, Bell, Waker, wait_any
from fairqued.worker.executor import Executor
from fairqued.worker.handler import TaskHandler
from fairqued.worker.heartbeat import Heartbeat

logger = logging.getLogger("fairqued.worker")

EXIT_SLOT_DIED, EXIT_FENCED, EXIT_ORPHANED = 81, 82, 83
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
    master_fd: int | None = None
    """A pipe that reaches its end when the master dies."""


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
        self._lease = Lease(store, names, worker_id=self.worker_id, lease_seconds=self._settings.lease_seconds)
        self._handler = handler
        self._executor = Executor(
            handler, worker_id=self.worker_id, unknown_function_seconds=self._settings.unknown_function_seconds
        )
        self._bell = Bell(store.connection, [store.keys.of("bell", name) for name in names])
        self._inbox: SimpleQueue[StartedTask | None] = SimpleQueue()
        self._outbox: SimpleQueue[Completion] = SimpleQueue()
        self._undelivered: list[Completion] = []
        self._is_asleep = False
        self._may_be_more = True
        self._look_at = 0.0
        self._next_due = float("inf")
        self._failed_tries = 0
        self._gone: WorkerGone | None = None
        self._stop_by: float | None = None
        self.waker = Waker()

    def register(self) -> None:
        """Make this worker known, with what its handler can run."""
        about = {
            "host": socket.gethostname(), "pid": os.getpid(), "pool": self._settings.pool,
            "queues": self._lease.queues, "threads": self._settings.threads,
        }  # fmt: skip
        self._lease.register(about, self._handler.functions())

    def run(self) -> int:
        """Work until `stop`. Returns how many tasks were still running at its deadline.

        Raises WorkerGone when this worker was declared dead: its tasks run elsewhere by then.
        """
        self.register()
        heartbeat = Heartbeat(
            self._lease, self._settings.heartbeat_seconds, on_gone=self._fenced,
            master_fd=self._settings.master_fd, on_orphaned=lambda: os._exit(EXIT_ORPHANED),
        )  # fmt: skip
        heartbeat.start()
        slots = ThreadPoolExecutor(self._settings.threads, thread_name_prefix="slot")
        for _ in range(self._settings.threads):
            slots.submit(self._serve)
        try:
            while not self._is_done():
                self._turn()
        finally:
            heartbeat.stop()
            for _ in range(self._settings.threads):
                self._inbox.put(None)
            slots.shutdown(wait=self._running == 0)
            self._bell.reset()
        if self._gone:
            raise self._gone
        if self._settings.worker_id is None:
            self._lease.give_up("drain")
        return self._lease.held

    def stop(self, within_seconds: float) -> None:
        """Take no more tasks, and let those that run end within this time. Safe in a signal handler."""
        by = time.monotonic() + within_seconds
        self._stop_by = by if self._stop_by is None else min(by, self._stop_by)
        self.waker.ring()

    # The loop

    @property
    def _running(self) -> int:
        return self._lease.held - len(self._undelivered)

    @property
    def _free(self) -> int:
        return self._settings.threads - self._running

    def _is_done(self) -> bool:
        if self._gone:
            return True
        if self._stop_by is None:
            return False
        self._collect()
        return self._lease.held == 0 or time.monotonic() >= self._stop_by

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
                self._undelivered.append(self._outbox.get_nowait())
            except Empty:
                return

    def _wanted(self) -> int:
        """How many tasks to ask for. An armed bell keeps one slot free: its marker may be the last."""
        if self._stop_by is not None:
            return 0
        return self._free - self._bell.is_armed

    def _exchange(self, wanted: int) -> None:
        delivered = self._undelivered
        try:
            answer = self._lease.exchange(delivered, wanted)
        except QueueUnavailable as error:
            self._pause_after(error)
            return
        except WorkerGone as error:
            self._fenced(error)
            return
        self._undelivered = list(answer.unreadable)
        self._back_again()
        if wanted:
            now = time.monotonic()
            self._may_be_more = False
            self._look_at = now + _LOOK_AT_LEAST_EVERY_SECONDS
            self._next_due = float("inf") if answer.next_due_seconds is None else now + answer.next_due_seconds
        for task in answer.started:
            self._inbox.put(task)

    def _sleep(self) -> None:
        """Until something ends here, the bell rings, the next delayed task is due, or somebody stops us."""
        now = time.monotonic()
        listens = self._stop_by is None and self._free > 0
        if listens and not self._bell.is_armed and not self._arm(now):
            return
        wake_at = self._stop_by if self._stop_by is not None else now + BLOCK_SECONDS
        if listens and not self._may_be_more:
            wake_at = min(wake_at, self._next_due)
        self._is_asleep = True
        sources: list[Waker | Bell] = [self.waker, self._bell] if self._bell.is_armed else [self.waker]
        ready = wait_any(sources, 0 if not self._outbox.empty() else max(0.0, wake_at - now))
        self._is_asleep = False
        if self.waker in ready:
            self.waker.drain()
        if self._bell.is_armed:
            self._hear(rang=self._bell in ready)

    def _arm(self, now: float) -> bool:
        try:
            self._bell.arm(min(self._next_due - now, BLOCK_SECONDS))
        except (RedisError, OSError) as error:
            self._pause_after(error)
            return False
        return True

    def _hear(self, *, rang: bool) -> None:
        try:
            if rang and self._bell.answer():
                self._may_be_more = True
            elif self._bell.is_overdue:
                raise ConnectionError("the server does not answer")  # noqa: TRY301
        except (RedisError, OSError) as error:
            self._pause_after(error)
            return
        now = time.monotonic()
        if now >= min(self._look_at, self._next_due):
            self._may_be_more = True

    # Redis away

    def _pause_after(self, error: Exception) -> None:
        """Wait a little, longer each time, while local completions go on gathering."""
        if self._failed_tries == 0:
            logger.warning("%s; running tasks go on, completions are kept", error)
        self._bell.reset()
        self._may_be_more = True
        pause = backoff_seconds(self._failed_tries)
        self._failed_tries += 1
        if self._stop_by is not None:
            pause = min(pause, max(0.0, self._stop_by - time.monotonic()))
        time.sleep(pause)

    def _back_again(self) -> None:
        if self._failed_tries:
            logger.info("Redis is back after %d tries", self._failed_tries)
            self._failed_tries = 0

    # Other threads

    def _serve(self) -> None:
        """A slot: run tasks from the inbox until told to end. A slot that breaks would hold its task for ever."""
        try:
            while (task := self._inbox.get()) is not None:
                self._outbox.put(self._executor.run(task))
                if self._is_asleep:
                    self.waker.ring()
        except BaseException:
            logger.exception("a slot died; this process ends, so that its tasks are put back")
            os._exit(EXIT_SLOT_DIED)

    def _fenced(self, error: WorkerGone) -> None:
        self._gone = error
        if self._settings.worker_id is not None:
            logger.error("%s; this process ends", error)
            os._exit(EXIT_FENCED)
        self.waker.ring()

