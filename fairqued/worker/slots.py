"""The slots of a worker: threads that take started tasks from an inbox, and put into an outbox how they ended."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue

from fairqued.lease import Completion, StartedTask
from fairqued.worker.bell import Waker
from fairqued.worker.executor import Executor
from fairqued.worker.watch import Watch


class Slots:
    """Threads that run tasks. All methods belong to the worker's own thread."""

    def __init__(
        self, number: int, executor: Executor, watch: Watch, waker: Waker, *, on_death: Callable[[BaseException], None]
    ) -> None:
        """`waker` is nudged when a task has ended, `on_death` called by a slot that breaks."""
        self._number, self._executor, self._watch, self._waker = number, executor, watch, waker
        self._on_death = on_death
        self._threads = ThreadPoolExecutor(self._number, thread_name_prefix="slot")
        self._inbox: SimpleQueue[StartedTask | None] = SimpleQueue()
        self._outbox: SimpleQueue[tuple[str, Completion | None]] = SimpleQueue()
        self.running: dict[str, StartedTask] = {}
        """What was put in and did not come out yet, by id."""

    def open(self) -> None:
        """Start the threads."""
        for _ in range(self._number):
            self._threads.submit(self._serve)

    def close(self) -> None:
        """End the threads, without waiting for tasks that still run."""
        for _ in range(self._number):
            self._inbox.put(None)
        self._threads.shutdown(wait=not self.running)

    @property
    def free(self) -> int:
        """How many more tasks could run."""
        return self._number - len(self.running)

    @property
    def awaited(self) -> int:
        """How many tasks run that may be expected to end."""
        return len(self.running) - self._watch.wedged

    @property
    def has_news(self) -> bool:
        """Whether a task has ended since `collect`."""
        return not self._outbox.empty()

    def start(self, task: StartedTask) -> None:
        """Run a task in a free slot."""
        self.running[task.task_id] = task
        self._inbox.put(task)

    def collect(self) -> list[Completion]:
        """How tasks have ended; those that were stopped have none, and are just not running any more."""
        completions: list[Completion] = []
        while True:
            try:
                task_id, completion = self._outbox.get_nowait()
            except Empty:
                return completions
            self.running.pop(task_id, None)
            if completion is not None:
                completions.append(completion)

    def _serve(self) -> None:
        """A slot: run tasks from the inbox until told to end. A slot that breaks would hold its task for ever."""
        try:
            slot = self._watch.open_slot()
            while (task := self._inbox.get()) is not None:
                self._outbox.put((task.task_id, self._executor.run(task, slot)))
                self._waker.nudge()
        except BaseException as error:  # noqa: BLE001 - whatever it is
            self._on_death(error)
