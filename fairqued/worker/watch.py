"""The watch over running tasks: interrupts those whose time is over, and deals with those that do not obey."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import orjson

from fairqued.errors import Interruption, TaskInterrupted, TaskTimeout
from fairqued.lease import StartedTask
from fairqued.store import Ended
from fairqued.worker.interruption import Interruptible
from fairqued.worker.vitals import Vitals, Will, Wish

logger = logging.getLogger("fairqued.worker")

_TRY_AGAIN_SECONDS, _LONGEST_SLEEP_SECONDS = 0.01, 3600.0
_MOST_STACK_BYTES = 2000


class WorkerStopping(TaskInterrupted):
    """The worker has to stop; the task runs again elsewhere."""


@dataclass(slots=True)
class Deadline:
    """When one attempt is interrupted, by what, and how it ends if that does not help."""

    task: StartedTask
    kind: type[Interruption]
    soft_at: float
    will: Will
    is_sent: bool = False
    is_wedged: bool = False


class Slot(Interruptible):
    """A thread of a worker, and the task that it runs."""

    def __init__(self, place: int, watch: Watch) -> None:
        super().__init__()
        self.place, self._watch, self._process = place, watch, os.getpid()
        self.task: StartedTask | None = None
        self.deadline: Deadline | None = None

    @property
    def present(self) -> Deadline | None:
        """The deadline of the task that runs, if it has one."""
        deadline = self.deadline
        return deadline if deadline is not None and deadline.task is self.task else None

    def begin(self, task: StartedTask) -> None:
        """From here on the slot runs this task."""
        self.interrupted_by = None
        self.task = task
        if (seconds := task.timeout_seconds) is not None:
            self._watch.limit(self, task, seconds)

    def end(self) -> None:
        """It runs no more."""
        if os.getpid() != self._process:
            logger.error("a fork that task %s made came back from it, and ends here", self.task and self.task.task_id)
            os._exit(1)  # it is no worker, and the memory shared with the master is not its own
        self.task = None
        if self.deadline is not None:
            self._watch.forget(self)


class Watch:
    """Looks after the slots of a worker, by a thread that is started for the first task with a deadline.

    Duties: interrupt each task when its time is over or its cancel has come. Leave a will for it before it begins: once
    a C call holds the interpreter, nobody can act. If it still runs `grace_seconds` after it was told to end, say where
    it hangs, and ask for another worker in the place of this one.
    """

    def __init__(
        self,
        grace_seconds: float,
        vitals: Vitals | None,
        *,
        forced_end: Callable[[StartedTask, type[Interruption], bytes], Ended],
        on_wedged: Callable[[], None],
    ) -> None:
        """`forced_end` says how a task ends whose process is killed for it; `on_wedged` is told when there is one."""
        self._grace_seconds, self._vitals = grace_seconds, vitals
        self._forced_end, self._on_wedged = forced_end, on_wedged
        self._slots: list[Slot] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._wakes_at = -math.inf
        self._is_over = False

    # Of the slots

    def open_slot(self) -> Slot:
        """A slot for the thread that calls this."""
        with self._changed:
            slot = Slot(len(self._slots), self)
            self._slots.append(slot)
        return slot

    def limit(self, slot: Slot, task: StartedTask, seconds: float) -> None:
        """Interrupt the task that this slot is about to run, if it takes longer."""
        deadline = self._deadline(task, TaskTimeout, seconds)
        with self._changed:
            self._set(slot, deadline)

    def forget(self, slot: Slot) -> None:
        """The task of this slot has ended."""
        with self._changed:
            self._forget(slot)

    # Of other threads

    def interrupt_cancelled(self) -> None:
        """Interrupt the tasks whose cancel has come."""
        for slot in self._slots:
            task = slot.task
            if task is not None and task.cancelled.is_set():
                self._cancel(slot, task)

    def _cancel(self, slot: Slot, task: StartedTask) -> None:
        deadline = self._deadline(task, TaskInterrupted, 0)
        with self._changed:
            present = slot.present
            if slot.task is not task or (present and (present.is_sent or present.kind is TaskInterrupted)):
                return
            self._set(slot, deadline)
            if slot.task is not task:  # it has just ended, without a look at this
                self._forget(slot)

    def interrupt_all(self) -> None:
        """The worker has to stop: let tasks clean up."""
        for slot in self._slots:
            if (task := slot.task) is not None:
                slot.interrupt(task, WorkerStopping)

    @property
    def wedged(self) -> int:
        """How many tasks were told to end, and did not."""
        return sum(1 for slot in self._slots if (present := slot.present) and present.is_wedged)

    def stop(self) -> None:
        """End the thread, if there is one."""
        with self._changed:
            self._is_over = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    # The deadlines

    def _deadline(self, task: StartedTask, kind: type[Interruption], seconds: float) -> Deadline:
        soft_at = time.monotonic() + seconds
        ended = self._forced_end(task, kind, _error(kind.__name__, seconds, self._grace_seconds))
        return Deadline(task, kind, soft_at, Will(ended, soft_at + self._grace_seconds))

    def _set(self, slot: Slot, deadline: Deadline) -> None:
        slot.deadline = deadline
        self._leave_will(slot, deadline.will)
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="watch", daemon=True)
            thread.start()  # raises where threads have run out: the next deadline tries again
            self._thread = thread
        elif deadline.soft_at < self._wakes_at:
            self._changed.notify()

    def _forget(self, slot: Slot) -> None:
        if slot.deadline and slot.deadline.is_wedged:
            logger.warning("task %s has ended after all", slot.deadline.task.task_id)
        slot.deadline = None
        self._leave_will(slot, None)

    def _leave_will(self, slot: Slot, will: Will | None) -> None:
        if self._vitals is not None:
            self._vitals.leave_will(slot.place, will)

    # The thread

    def _run(self) -> None:
        with self._changed:
            while not self._is_over:
                now = time.monotonic()
                self._wakes_at = min((self._look(slot, now) for slot in self._slots), default=math.inf)
                self._changed.wait(min(max(0.0, self._wakes_at - now), _LONGEST_SLEEP_SECONDS))

    def _look(self, slot: Slot, now: float) -> float:
        """Do what is due, and say when to look again."""
        deadline = slot.present
        if deadline is None or deadline.is_wedged:
            return math.inf
        if now >= deadline.will.hard_at:
            self._declare_wedged(slot, deadline)
            return math.inf
        if not deadline.is_sent:
            if now < deadline.soft_at:
                return deadline.soft_at
            deadline.is_sent = slot.interrupt(deadline.task, deadline.kind)
        return deadline.will.hard_at if deadline.is_sent else now + _TRY_AGAIN_SECONDS

    def _declare_wedged(self, slot: Slot, deadline: Deadline) -> None:
        task, (ended, hard_at) = deadline.task, deadline.will
        told, stack = orjson.loads(ended.error), _stack_of(slot.ident)
        outlook = "its process is replaced" if self._vitals else "nobody else can end this process: the slot is lost"
        logger.error(
            "task %s of %s hangs: %s; %s\n%s", task.task_id, task.user_id, told["message"], outlook, stack,
            extra={"task": task.task_id, "user": task.user_id, "attempt": task.attempt},
        )  # fmt: skip
        deadline.is_wedged = True
        if self._vitals:
            error = orjson.dumps({**told, "traceback": _end_of(stack)})
            self._vitals.leave_will(slot.place, Will(ended._replace(error=error), hard_at))
            self._vitals.wish_for_replacement(Wish.WEDGED)
        self._on_wedged()


@lru_cache
def _error(kind: str, seconds: float, grace_seconds: float) -> bytes:
    """What is stored with a task that did not end after all this time, as JSON."""
    is_timeout = kind == TaskTimeout.__name__
    what = f"it ran for longer than its timeout_seconds ({seconds:g})" if is_timeout else "it was cancelled"
    message = f"{what}, and did not end within {grace_seconds:g} s after that"
    return orjson.dumps({"type": f"{TaskTimeout.__module__}.{kind}", "message": message})


def _stack_of(ident: int) -> str:
    """Where a thread is just now, as text that can be stored: names of files may be none."""
    frame = sys._current_frames().get(ident)  # noqa: SLF001 - there is no other way
    stack = "".join(traceback.format_stack(frame)) if frame else ""
    return stack.encode(errors="backslashreplace").decode()


def _end_of(stack: str) -> str:
    return stack.encode()[-_MOST_STACK_BYTES:].decode(errors="ignore")
