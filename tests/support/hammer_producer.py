"""The client of the hammer: enqueues through the faulty network, and notes what it was told."""

import heapq
import itertools
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fairqued.errors import DuplicateTask, QueueUnavailable
from fairqued.queue import TaskQueue
from fairqued.state import Priority
from fairqued.tasks import Task

USERS = ("alice", "bob", "carol/team", "dave{x}", "eve*")
LIMITS: dict[str, dict[str, float]] = {
    "alice": {"weight": 3},
    "carol/team": {"max_running": 2},
    "eve*": {"weight": 0.5, "max_running": 5},
}
QUEUES = ("default", "mail")

_KINDS = {"plain": 70, "fails_once": 10, "fails": 5, "revived": 5, "cancelled": 8, "replaced": 4, "repeated": 4}
_LONGEST_SECONDS = 0.02
_AGAIN_SECONDS = 0.2


@dataclass
class Enqueued:
    """What the client knows of one task. `accepted` and `cancelled` are None where no answer came."""

    kind: str
    user: str
    accepted: bool | None = None
    cancelled: bool | None = False
    revivals: int = 0
    versions: set[int] = field(default_factory=lambda: {0})
    """Which versions of the task may stand: the last one that was accepted, and those of unknown outcome since."""


def short(chance: random.Random) -> float:
    """How long a task takes that hardly takes any time."""
    return chance.uniform(0, _LONGEST_SECONDS) ** 2 / _LONGEST_SECONDS


class Producer(threading.Thread):
    """Enqueues bursts while there is room, and cancels, revives, replaces and repeats some of them a moment later."""

    def __init__(
        self, queue: TaskQueue, has_room: Callable[[int], bool], chance: random.Random,
        seconds_of: Callable[[random.Random], float] = short,
    ) -> None:  # fmt: skip
        """`has_room` is asked with the number of tasks so far, `seconds_of` says how long one runs."""
        super().__init__(name="producer")
        self.tasks: dict[str, Enqueued] = {}
        self.errors: list[BaseException] = []
        self._queue, self._has_room, self._random, self._seconds_of = queue, has_room, chance, seconds_of
        self._stopping = threading.Event()
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def stop(self) -> None:
        """Enqueue no more, and end."""
        self._stopping.set()
        self.join()

    def enqueue_plain(self, number: int) -> list[str]:
        """Before the thread runs, over a good network: enqueue some tasks that simply return; their ids."""
        tasks = [self._make_task(kind="plain") for _ in range(number)]
        ids = [str(task.task_id) for task in tasks]
        self._queue.enqueue_many(tasks)
        for task_id in ids:
            self.tasks[task_id].accepted = True
        return ids

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._do_what_is_due()
                if self._has_room(len(self.tasks)):
                    self._enqueue_burst()
                self._stopping.wait(self._random.uniform(0, 0.02))
        except BaseException as error:  # noqa: BLE001 - the test raises it
            self.errors.append(error)

    def _do_what_is_due(self) -> None:
        now = time.monotonic()
        while self._later and self._later[0][0] <= now and not self._stopping.is_set():
            heapq.heappop(self._later)[2]()

    def _soon(self, seconds: float, action: Callable[[str], None], task_id: str) -> None:
        at = time.monotonic() + self._random.uniform(0, seconds)
        heapq.heappush(self._later, (at, next(self._order), lambda: action(task_id)))

    def _enqueue_burst(self) -> None:
        tasks = [self._make_task() for _ in range(self._random.choice((1, 1, 10, 40, 100)))]
        ids = [str(task.task_id) for task in tasks]
        try:
            self._queue.enqueue_many(tasks)
        except QueueUnavailable:
            for task_id in ids:
                self._soon(_AGAIN_SECONDS, self._enqueue_again, task_id)
            return
        for task_id in ids:
            self.tasks[task_id].accepted = True
            self._plan(task_id)

    def _make_task(self, task_id: str | None = None, version: int = 0, kind: str = "") -> Task[object]:
        if task_id is None:
            task_id = f"t{len(self.tasks)}"
            kind = kind or self._random.choices(list(_KINDS), list(_KINDS.values()))[0]
            self.tasks[task_id] = Enqueued(kind, self._random.choice(USERS))
        told = self.tasks[task_id]
        delays = 1.0 if told.kind == "replaced" else self._random.random() < 0.1
        return Task(
            task_id=task_id,
            user_id=told.user,
            queue=self._random.choice(QUEUES),
            priority=self._random.choice(list(Priority)),
            delay_seconds=self._random.uniform(0, 0.5) if delays else None,
            max_retries=1,
            retry_backoff_seconds=0.1,
            payload={"kind": told.kind, "seconds": self._seconds_of(self._random), "version": version},
        )

    def _plan(self, task_id: str) -> None:
        actions = {"cancelled": self._cancel, "revived": self._revive, "repeated": self._repeat}
        actions["replaced"] = self._replace
        if action := actions.get(self.tasks[task_id].kind):
            self._soon(0.2, action, task_id)

    def _enqueue_again(self, task_id: str) -> None:
        """After an unknown outcome: some give up, some try again under the same id."""
        if self._random.random() < 0.5:
            return
        try:
            self._queue.enqueue(self._make_task(task_id))
        except (QueueUnavailable, DuplicateTask) as error:
            self.tasks[task_id].accepted = True if isinstance(error, DuplicateTask) else None
        else:
            self.tasks[task_id].accepted = True

    def _cancel(self, task_id: str) -> None:
        self.tasks[task_id].cancelled = None
        try:
            self.tasks[task_id].cancelled = self._queue.cancel(task_id)
        except QueueUnavailable:
            self._soon(_AGAIN_SECONDS, self._cancel, task_id)

    def _revive(self, task_id: str) -> None:
        try:
            revived = self._queue.retry(task_id)
        except QueueUnavailable:
            return
        if not revived and not self._queue_says_finished(task_id):
            self._soon(_AGAIN_SECONDS, self._revive, task_id)

    def _queue_says_finished(self, task_id: str) -> bool:
        try:
            return self._queue.get(task_id).state == "finished"
        except QueueUnavailable:
            return False

    def _repeat(self, task_id: str) -> None:
        try:
            self._queue.enqueue(self._make_task(task_id, version=1), if_exists="ignore")
        except QueueUnavailable:
            self._soon(_AGAIN_SECONDS, self._repeat, task_id)

    def _replace(self, task_id: str) -> None:
        told = self.tasks[task_id]
        version = max(told.versions) + 1
        try:
            self._queue.enqueue(self._make_task(task_id, version=version), if_exists="replace")
        except QueueUnavailable:
            told.versions.add(version)
        except DuplicateTask:
            return  # it runs, or ran: that version stays
        else:
            told.versions = {version}
            if version < 4:
                self._soon(0.2, self._replace, task_id)
