"""A worker: one loop that keeps its slots filled, threads that run tasks, a heartbeat that keeps its lease."""

from __future__ import annotations

import logging
import os
import socket
import time

from redis.exceptions import RedisError

from fairqued.connection import backoff_seconds
from fairqued.crash_points import crash_point
from fairqued.errors import FairquedError, LateClaim, WorkerGone
from fairqued.keys import base_queue
from fairqued.lease import Completion, Lease
from fairqued.queue import TaskQueue
from fairqued.troubles import Troubles
from fairqued.validation import check_queue_name
from fairqued.worker.bell import BLOCK_SECONDS, Bell, Waker, wait_any
from fairqued.worker.executor import Executor
from fairqued.worker.handler import TaskHandler
from fairqued.worker.heartbeat import Heartbeat
from fairqued.worker.settings import WorkerSettings
from fairqued.worker.slots import Slots
from fairqued.worker.vitals import Wish
from fairqued.worker.watch import Watch

logger = logging.getLogger("fairqued.worker")

EXIT_SLOT_DIED, EXIT_FENCED = 81, 82
LAST_WORDS_SECONDS = 1.0
"""For tasks that did not end in time, after it: to clean up."""
_LOOK_AT_LEAST_EVERY_SECONDS = 5.0
_WARY_SECONDS, _WARY_LOOK_SECONDS = 2 * BLOCK_SECONDS, 0.5
_LAST_LOOK_SECONDS = 0.05
"""How long a worker that ends when there is nothing to do listens, after it found nothing."""


class Worker:
    """Runs the tasks of some queues with a handler: `Worker(queue, handler).run()`.

    Duties: take as many tasks as there are free slots, never more; deliver completions together with the next claim;
    sleep until a task ends here or the bell rings; while Redis is away keep completions, and deliver them later.
    """

    def __init__(self, queue: TaskQueue, handler: TaskHandler, settings: WorkerSettings | None = None) -> None:
        self._settings = settings or WorkerSettings()
        store = queue._store  # noqa: SLF001 - a worker is the other side of the queue
        names = list(self._settings.queues)
        for name in names:
            check_queue_name(base_queue(name))
        self.worker_id = self._settings.worker_id or f"{os.urandom(8).hex()}.0.0"
        self._connection = store.connection
        self._lease = Lease(
            store, names, worker_id=self.worker_id, lease_seconds=self._settings.lease_seconds,
            signer=queue._signer,  # noqa: SLF001
        )  # fmt: skip
        self._handler = handler
        self._waker = Waker()
        executor = Executor(
            handler, worker_id=self.worker_id, unknown_function_seconds=self._settings.unknown_function_seconds
        )
        self._watch = Watch(
            self._settings.hard_grace_seconds, self._settings.vitals,
            forced_end=executor.forced_end, on_wedged=self._waker.ring,
        )  # fmt: skip
        self._slots = Slots(self._settings.threads, executor, self._watch, self._waker, on_death=self._slot_died)
        self._bell = Bell(store.connection, [store.keys.of("bell", name) for name in names])
        self._undelivered: list[Completion] = []
        self._completed = 0
        self._is_registered = False
        self._may_be_more = True
        self._found_nothing = False
        self._look_at = self._wary_until = 0.0
        self._is_wary = False
        """Whether a bell was given up that may take a marker yet."""
        self._next_due = float("inf")
        self._troubles = Troubles(logger, meanwhile="; running tasks go on, their completions are kept")
        self._heartbeat = Heartbeat(
            self._lease, self._settings, self._troubles, on_beat=self._after_beat, on_gone=self._fenced
        )
        self._failed_tries = self._deaf_times = 0
        self._gone: WorkerGone | None = None
        self._stop_by: float | None = None
        self._is_over = False
        self._last_words_until = 0.0

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
        self._heartbeat.start()
        try:
            self._slots.open()
            while not self._is_done():
                self._turn()
            self._tell_what_is_left()
        finally:
            self._heartbeat.stop()
            self._watch.stop()
            self._slots.close()
            self._bell.reset()
            self._waker.close()
            self._is_over = True
            if self._settings.worker_id is None:
                self._connection.give_up_at = float("inf")
        if self._gone:
            raise self._gone
        if self._settings.worker_id is None and not self._slots.running:
            self._lease.give_up("drain")
        return len(self._slots.running)

    def stop(self, within_seconds: float) -> None:
        """Take no more tasks, and let those that run end within this time. Safe in a signal handler."""
        if self._is_over:
            return
        by = time.monotonic() + within_seconds
        self._stop_by = self._connection.give_up_at = by if self._stop_by is None else min(by, self._stop_by)
        self._waker.ring()

    # The loop

    def _is_done(self) -> bool:
        if self._gone:
            return True
        self._collect()
        if not (self._undelivered or self._slots.awaited):
            return self._stop_by is not None or self._found_nothing
        return self._stop_by is not None and self._is_out_of_time(self._stop_by)

    def _is_out_of_time(self, stop_by: float) -> bool:
        if time.monotonic() < stop_by:
            return False
        if self._slots.awaited:
            self._grant_last_words(stop_by)
        return time.monotonic() >= max(stop_by, self._last_words_until)

    def _grant_last_words(self, stop_by: float) -> None:
        """Let the tasks that did not end in time clean up."""
        if not self._last_words_until:
            self._last_words_until = self._connection.give_up_at = stop_by + LAST_WORDS_SECONDS
            self._tell_what_runs()
        self._watch.interrupt_all()

    def _turn(self) -> None:
        wanted = self._wanted()
        if self._undelivered or (wanted and self._may_be_more):
            self._exchange(wanted)
        else:
            self._sleep()

    def _collect(self) -> None:
        completions = self._slots.collect()
        self._undelivered += completions
        self._completed += len(completions)
        if self._settings.vitals and 0 < self._settings.max_tasks <= self._completed:
            self._settings.vitals.wish_for_replacement(Wish.MAX_TASKS)

    @property
    def _takes_tasks(self) -> bool:
        return self._stop_by is None and not self._heartbeat.is_lost

    def _wanted(self) -> int:
        """How many tasks to ask for. An armed bell keeps one slot free: its marker may be the last."""
        return self._slots.free - self._bell.is_armed if self._takes_tasks else 0

    def _exchange(self, wanted: int) -> None:
        if delivers := bool(self._undelivered):
            crash_point("before_finish")
        began = time.monotonic()
        try:
            answer = self._lease.exchange(self._undelivered, wanted)
        except WorkerGone as error:
            self._fenced(error)
            return
        except LateClaim:
            raise  # somebody else works under our name
        except FairquedError as error:
            self._pause_after(error, time.monotonic() - began)
            return
        if delivers:
            crash_point("after_finish")
        if answer.started:
            crash_point("after_pop")
        self._undelivered = list(answer.unreadable)
        self._troubles.end("exchange")
        self._failed_tries = 0
        if wanted:
            now = time.monotonic()
            self._may_be_more = False
            if self._is_wary:
                self._is_wary, self._wary_until = False, now + _WARY_SECONDS
            self._look_at = now + (_WARY_LOOK_SECONDS if now < self._wary_until else _LOOK_AT_LEAST_EVERY_SECONDS)
            self._next_due = float("inf") if answer.next_due_seconds is None else now + answer.next_due_seconds
        for task in answer.started:
            self._slots.start(task)

    def _sleep(self) -> None:
        """Until something ends here, the bell rings, the next delayed task is due, or somebody stops us."""
        now = time.monotonic()
        if not self._takes_tasks:
            self._give_up_bell()  # its marker is for those who take tasks
        elif self._slots.free and not self._bell.is_armed and not self._arm(now):
            return
        wake_at = now + BLOCK_SECONDS if self._stop_by is None else max(self._stop_by, self._last_words_until)
        wake_at = min(wake_at, self._bell.overdue_at)
        if self._bell.is_armed and not self._may_be_more:
            wake_at = min(wake_at, self._next_due, self._look_at)
        self._waker.is_awaited = True
        sources: list[Waker | Bell] = [self._waker, self._bell] if self._bell.is_armed else [self._waker]
        ready = wait_any(sources, 0 if self._slots.has_news else wake_at - now)
        self._waker.is_awaited = False
        if self._waker in ready:
            self._waker.drain()
            time.sleep(0)  # a turn for the other slots: what ends at the same time is delivered together
        if self._bell.is_armed:
            self._hear(rang=self._bell in ready)

    def _arm(self, now: float) -> bool:
        try:
            longest = _LAST_LOOK_SECONDS if self._settings.ends_when_empty else BLOCK_SECONDS
            self._bell.arm(min(self._next_due - now, longest))
        except (FairquedError, RedisError) as error:
            self._be_deaf(error)
            return False
        return True

    def _hear(self, *, rang: bool) -> None:
        try:
            if rang:
                self._may_be_more |= self._bell.answer()
                self._found_nothing = self._settings.ends_when_empty and not self._may_be_more
                self._deaf_times = 0
                self._troubles.end("bell")
        except (FairquedError, RedisError) as error:
            self._be_deaf(error)
        now = time.monotonic()
        if now >= self._bell.overdue_at:
            self._give_up_bell()
            self._connection.drop_idle()  # they may be as dead, and the exchange is to tell whether Redis is away
        elif now >= min(self._look_at, self._next_due):
            self._may_be_more = True

    # In trouble

    def _pause_after(self, error: Exception, spent_seconds: float) -> None:
        """The exchange failed: wait a little, longer each time, while local completions go on gathering."""
        self._troubles.begin("exchange", error)
        self._give_up_bell()
        self._pause(backoff_seconds(self._failed_tries, spent_seconds))
        self._failed_tries += 1

    def _be_deaf(self, error: Exception) -> None:
        """The bell failed: look without it. That it fails is told only if it does so while the exchange works."""
        self._give_up_bell()
        if self._deaf_times:
            self._troubles.begin("bell", error)
            self._pause(backoff_seconds(self._deaf_times))
        self._deaf_times += 1

    def _give_up_bell(self) -> None:
        """Look without it. Redis may hear of that too late, and give this worker a marker that others wait for."""
        self._is_wary = True
        self._bell.reset()
        self._may_be_more = True

    def _pause(self, seconds: float) -> None:
        """Until something ends here, or somebody stops us."""
        if self._stop_by is not None:
            seconds = min(seconds, max(self._stop_by, self._last_words_until) - time.monotonic())
        if wait_any([self._waker], seconds):
            self._waker.drain()

    def _tell_what_is_left(self) -> None:
        if self._undelivered:
            ids = ", ".join(each.task_id for each in self._undelivered)
            logger.warning("these tasks ended, could not be completed, and will run again: %s", ids)
        if self._slots.running and not self._last_words_until:
            self._tell_what_runs()

    def _tell_what_runs(self) -> None:
        what = "are left to the end of the lease" if self._settings.worker_id is None else "are handed back"
        logger.warning("these tasks did not end in time, and %s: %s", what, ", ".join(self._slots.running))

    # Other threads

    def _after_beat(self) -> None:
        self._waker.ring()  # the lease may be lost, or there again
        self._watch.interrupt_cancelled()

    @staticmethod
    def _slot_died(error: BaseException) -> None:
        logger.error("a slot died; this process ends, so that its tasks are put back", exc_info=error)
        os._exit(EXIT_SLOT_DIED)

    def _fenced(self, error: WorkerGone) -> None:
        self._gone = error
        if self._settings.worker_id is not None:
            logger.error("%s; this process ends", error)
            os._exit(EXIT_FENCED)
        self._waker.ring()
