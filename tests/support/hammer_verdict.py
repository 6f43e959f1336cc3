"""What the hammer's run proves: what was enqueued, executed, acknowledged and stored, held against each other.

Three witnesses that do not know of each other: the client's notes, the workers' logs, and the server's audit of moves.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import orjson

from fairqued.record import Record
from fairqued.state import TaskState
from tests.support.audit import Move
from tests.support.fate import Fate
from tests.support.hammer_evidence import Evidence, Execution
from tests.support.hammer_producer import LIMITS, Enqueued

_FINAL, _WAITING = "fxc", "qs"
_ENDS = {
    "plain": {TaskState.FINISHED},
    "repeated": {TaskState.FINISHED},
    "replaced": {TaskState.FINISHED},
    "fails_once": {TaskState.FINISHED},
    "fails": {TaskState.FAILED},
    "revived": {TaskState.FINISHED, TaskState.FAILED},
}
_CANCELLED_ENDS = {
    True: {TaskState.CANCELLED},
    False: {TaskState.FINISHED},
    None: {TaskState.CANCELLED, TaskState.FINISHED},
}

Holding = tuple[str, str]
"""A task and a worker that held it."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A started task was taken from its worker: why, and whether the process was alive then."""

    move: Move
    worker_id: str
    cause: str
    was_alive: bool


@dataclass
class History:
    """The server's moves, told as what they mean."""

    starts: Counter[Holding] = field(default_factory=Counter)
    completions: Counter[Holding] = field(default_factory=Counter)
    finishers: dict[str, str] = field(default_factory=dict)
    ends: Counter[str] = field(default_factory=Counter)
    losses: list[Loss] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_history(moves: Iterable[Move], tasks: Mapping[str, Enqueued], fates: Mapping[str, Fate]) -> History:
    """Go through the moves in the server's order, and find those that must not be."""
    history = History()
    states: dict[str, str] = {}
    holders: dict[str, str] = {}
    running: Counter[str] = Counter()
    for move in moves:
        was = states.get(move.task_id, move.before)
        if was != move.before and not (was in _WAITING and move.before in _WAITING):  # replaced while it waited
            history.problems.append(f"{move} although it stood at {was!r}")
        states[move.task_id] = move.after
        history.ends[move.task_id] += (move.after in _FINAL) - (move.before in _FINAL)
        if move.task_id not in tasks:
            history.problems.append(f"{move} of a task that was never enqueued")
            continue
        running[tasks[move.task_id].user] += (move.after == "r") - (move.before == "r")
        if move.after == "r":
            since = fates[move.worker].reclaimed_at
            if since and move.at > since:
                history.problems.append(f"{move} by a worker that was reclaimed {move.at - since:.3f} s before")
            holders[move.task_id] = move.worker
            history.starts[move.task_id, move.worker] += 1
        elif move.before == "r":
            _end_attempt(history, move, fates[holders[move.task_id]])
        history.problems += _over_limit(tasks[move.task_id].user, running)
    return history


def _end_attempt(history: History, move: Move, holder: Fate) -> None:
    if move.script in ("finish", "fail"):
        history.completions[move.task_id, move.worker] += 1
        history.finishers[move.task_id] = move.worker
        if move.worker != holder.worker_id:
            history.problems.append(f"{move} accepted, but {holder.worker_id} held the task")
        return
    was_alive = holder.was_alive(move.at)
    if was_alive and move.script != "tick":
        history.problems.append(f"{move} while its worker {holder.worker_id} was alive and nobody had judged its lease")
    cause = holder.cause(move.at, move.script)
    if cause is None:
        history.problems.append(f"{move} although nothing happened to its worker {holder.worker_id}")
    history.losses.append(Loss(move, holder.worker_id, cause or "unexplained", was_alive))


def _over_limit(user: str, running: Counter[str]) -> Iterator[str]:
    most = LIMITS.get(user, {}).get("max_running")
    if most and running[user] > most:
        yield f"user {user} runs {running[user]} tasks, at most {most} are allowed"


class Verdict:
    """The problems of a run, and what explains its double executions."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._tasks, self._fates = evidence.outcome.tasks, evidence.outcome.fates
        self._history = read_history(evidence.moves, self._tasks, self._fates)
        self.doubles: Counter[str] = Counter()
        self.problems = [
            *self._history.problems,
            *self._judge_tasks(),
            *self._judge_results(),
            *self._judge_executions(),
            *self._judge_overlaps(),
            *self._judge_statuses(),
            *self._judge_counters(),
            *self._judge_workers(),
        ]

    def summary(self) -> str:
        """The run in one line."""
        return f"{self.numbers()} ({self.causes()})"

    def numbers(self) -> str:
        """How much was done, to whom."""
        counts = self._evidence.outcome.counts
        numbers = {
            "tasks": len(self._evidence.records),
            "enqueues unknown": sum(told.accepted is None for told in self._tasks.values()),
            **self._evidence.outcome.events,
            "workers that lost their lease": len(self._zombies()),
            "replies dropped": counts.replies_dropped,
            "late copies": counts.copies_delivered,
            "starts": self._history.starts.total(),
            "taken back": len(self._history.losses),
            "executed again": self.doubles.total(),
        }
        return ", ".join(f"{number} {what}" for what, number in numbers.items())

    def tally(self) -> Mapping[str, int]:
        """What became of the tasks, in numbers."""
        ends, tasks = self._history.ends, self._tasks
        accepted = [task_id for task_id, told in tasks.items() if told.accepted or ends[task_id]]
        return {
            "accepted": len(accepted),
            "completed": sum(ends[task_id] == 1 for task_id in accepted),
            "completed twice": sum(ends[task_id] > 1 for task_id in accepted),
            "lost": sum(ends[task_id] < 1 for task_id in accepted),
            "executed twice": self.doubles.total(),
        }

    def causes(self) -> str:
        """What explains the double executions, and how many of them."""
        return ", ".join(f"{number} {cause}" for cause, number in sorted(self.doubles.items())) or "none"

    def _judge_tasks(self) -> Iterator[str]:
        for task_id, told in self._tasks.items():
            record = self._evidence.records.get(task_id)
            if record is not None:
                yield from self._judge_record(record, told)
            elif told.accepted or self._history.ends[task_id]:
                yield f"task {task_id} is lost: {told}"

    def _judge_record(self, record: Record, told: Enqueued) -> Iterator[str]:
        allowed = _CANCELLED_ENDS[told.cancelled] if told.kind == "cancelled" else _ENDS[told.kind]
        if record.state not in allowed:
            yield f"task {record.task_id} is {record.state} ({record.reason}): {told}"
        if self._history.ends[record.task_id] != 1:
            yield f"task {record.task_id} ended {self._history.ends[record.task_id]} times: {told}"
        version = record.read_spec()["payload"]["version"]
        if version not in told.versions:
            yield f"task {record.task_id} stands with version {version}: {told}"

    def _judge_results(self) -> Iterator[str]:
        for task_id, record in self._evidence.records.items():
            raw = self._evidence.results[task_id]
            found: Any = orjson.loads(raw) if raw else None
            by = [self._history.finishers.get(task_id), record.settled]
            if found != (by if record.state is TaskState.FINISHED else None):
                yield f"task {task_id}, {record.state} by {by}, has the result {found}"

    def _judge_executions(self) -> Iterator[str]:
        done: dict[Holding, list[Execution]] = defaultdict(list)
        lost: dict[Holding, list[Loss]] = defaultdict(list)
        for each in self._evidence.executions:
            done[each.task_id, each.worker_id].append(each)
        for loss in self._history.losses:
            lost[loss.move.task_id, loss.worker_id].append(loss)
        fences = Counter((each.task_id, each.fence) for each in self._evidence.executions)
        yield from (f"attempt {attempt} was executed {times} times" for attempt, times in fences.items() if times > 1)
        for holding in done.keys() | self._history.starts.keys():
            yield from self._judge_holding(holding, done[holding], lost[holding])

    def _judge_holding(self, holding: Holding, done: list[Execution], lost: list[Loss]) -> Iterator[str]:
        starts, completed = self._history.starts[holding], self._history.completions[holding]
        if len(done) > starts:
            yield f"{holding} was executed {len(done)} times, started {starts} times"
        if len(done) < starts - len(lost):
            yield f"{holding} was started {starts} times for {len(done)} executions, and taken back {len(lost)} times"
        surplus = len(done) - completed
        # One that lost a task which it executed is a zombie, and may not end as if all were well.
        if surplus > (0 if self._fates[holding[1]].ended_well else len(lost)):
            yield f"{holding} was executed {len(done)} times, completed {completed} times, taken back {len(lost)} times"
        for loss in lost[:surplus] if surplus > 0 else ():
            self.doubles[loss.cause + (", had returned" if done[-1].returned else ", still ran")] += 1

    def _zombies(self) -> set[str]:
        return {loss.worker_id for loss in self._history.losses if loss.was_alive}

    def _judge_overlaps(self) -> Iterator[str]:
        zombies = self._zombies()
        by_task: dict[str, list[Execution]] = defaultdict(list)
        for each in sorted(self._evidence.executions, key=lambda execution: execution.start):
            by_task[each.task_id].append(each)
        for executions in by_task.values():
            for earlier, later in pairwise(executions):
                if later.start < earlier.end and earlier.worker_id not in zombies | {later.worker_id} - zombies:
                    yield f"{later} began while {earlier} ran"

    def _judge_statuses(self) -> Iterator[str]:
        told = Counter((task_id, worker_id) for worker_id, task_id, _, _ in self._evidence.statuses)
        attempts = Counter((task_id, fence) for _, task_id, fence, _ in self._evidence.statuses)
        yield from (f"attempt {attempt} was acknowledged {n} times" for attempt, n in attempts.items() if n > 1)
        for worker_id, task_id, fence, status in self._evidence.statuses:
            record = self._evidence.records.get(task_id)
            was_last = record is not None and record.settled == int(fence)
            if status == "corrupt" or (status == "stale" and was_last):
                yield f"worker {worker_id}: completion of {task_id} with fence {fence} is {status}"
        for holding in told.keys() | self._history.completions.keys():
            accepted, heard = self._history.completions[holding], told[holding]
            if heard > accepted or (heard < accepted and self._fates[holding[1]].ended_well):
                yield f"{holding} was completed {accepted} times, acknowledged {heard} times"

    def _judge_counters(self) -> Iterator[str]:
        found = Counter(self._evidence.counters)
        moves = self._evidence.moves
        to = Counter(move.after for move in moves)
        replaced = found["enqueued"] - len(self._evidence.records)
        expected = {
            "finished": to["f"],
            "failed": to["x"],
            "cancelled": to["c"] + replaced,
            "started": to["r"],
            "reclaimed": len(self._history.losses),
            "retried": sum(move.script == "fail" and move.after == "s" for move in moves),
            "revived": sum(move.script == "retry" for move in moves),
        }
        for name, number in expected.items():
            if found[name] != number:
                yield f"counter {name} is {found[name]}, expected {number}"
        if found["finished"] + found["failed"] + found["cancelled"] != found["enqueued"] + found["revived"]:
            yield f"the counters do not add up: {dict(found)}"

    def _judge_workers(self) -> Iterator[str]:
        yield from (f"worker {fate.worker_id} {fate.trouble}" for fate in self._fates.values() if fate.trouble)
