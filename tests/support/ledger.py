"""What was really executed: a local file to which each execution appends one line, and the verdict on it."""

import json
import os
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path


@dataclass(frozen=True)
class Execution:
    """One run of a task from start to end, by one process; times are this host's, in seconds since the epoch."""

    task_id: str
    attempt: int
    pid: int
    start: float
    end: float


class Ledger:
    """The file of executions; safe to write from any number of processes and threads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, execution: Execution) -> None:
        """Write one execution in a single append, whole or not at all."""
        line = json.dumps(asdict(execution), separators=(",", ":")).encode() + b"\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            written = os.write(descriptor, line)
        finally:
            os.close(descriptor)
        assert written == len(line), f"only {written} of {len(line)} bytes were written to {self.path}"

    @contextmanager
    def execution(self, task_id: str, attempt: int) -> Iterator[None]:
        """Record the block as one execution once it ended, whether well or by an error."""
        start = time.time()
        try:
            yield
        finally:
            self.append(Execution(task_id, attempt, os.getpid(), start, time.time()))

    def read(self) -> list[Execution]:
        """Return every execution in the order in which they ended."""
        if not self.path.exists():
            return []
        return [Execution(**json.loads(line)) for line in self.path.read_bytes().splitlines()]

    def by_task(self) -> dict[str, list[Execution]]:
        """Return the executions of each task."""
        tasks: dict[str, list[Execution]] = defaultdict(list)
        for execution in self.read():
            tasks[execution.task_id].append(execution)
        return dict(tasks)


@dataclass(frozen=True)
class Verdict:
    """What the ledger and the outcomes say together about a run; `clean` is what a test asserts.

    Executed twice is allowed where a death, a lost lease or a reclaim explains it: the test compares those itself.
    """

    lost: frozenset[str]
    completed_twice: frozenset[str]
    finished_without_execution: frozenset[str]
    never_accepted: frozenset[str]
    executed_twice: Mapping[str, tuple[Execution, ...]]
    overlapping: frozenset[str]

    @property
    def clean(self) -> bool:
        """Whether every accepted task completed exactly once, was executed, and nothing else was."""
        return not (self.lost or self.completed_twice or self.finished_without_execution or self.never_accepted)


def judge(
    executions: Collection[Execution],
    completions: Mapping[str, int],
    *,
    accepted: Collection[str],
    refused: Collection[str] = (),
    unknown: Collection[str] = (),
) -> Verdict:
    """Judge a run that has come to rest.

    `completions` counts the completions that Redis accepted for each task. `accepted`, `refused` and `unknown` are the
    enqueues that returned, that were refused, and whose reply was lost: an unknown one may have happened or not.
    """
    by_task: dict[str, list[Execution]] = defaultdict(list)
    for execution in executions:
        by_task[execution.task_id].append(execution)
    seen = by_task.keys() | {task_id for task_id, times in completions.items() if times}
    once = {task_id for task_id, times in completions.items() if times == 1}
    return Verdict(
        lost=frozenset(task_id for task_id in accepted if not completions.get(task_id)),
        completed_twice=frozenset(task_id for task_id, times in completions.items() if times > 1),
        finished_without_execution=frozenset(once - by_task.keys()),
        never_accepted=frozenset((seen - set(accepted) - set(unknown)) | (seen & set(refused))),
        executed_twice={task_id: tuple(found) for task_id, found in by_task.items() if len(found) > 1},
        overlapping=frozenset(task_id for task_id, found in by_task.items() if _overlap(found)),
    )


def _overlap(executions: Collection[Execution]) -> bool:
    ordered = sorted(executions, key=lambda execution: execution.start)
    return any(later.start < earlier.end for earlier, later in pairwise(ordered))
