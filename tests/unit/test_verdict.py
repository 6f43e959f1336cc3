"""The verdict on a run of the hammer, or of chaos, is red when it has to be: evidence is planted here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from fairqued.daemon import exits
from fairqued.state import TaskState
from tests.support.audit import Move
from tests.support.chaos_fates import Struck, fates_of
from tests.support.chaos_host import CUT_OFF, FROZEN, Note
from tests.support.chaos_plan import BOTH, KINDS, Target, plan
from tests.support.fate import Fate
from tests.support.hammer import Outcome
from tests.support.hammer_evidence import Evidence, Execution
from tests.support.hammer_producer import Enqueued
from tests.support.hammer_verdict import Verdict
from tests.support.proxy import Counts

STATES = {"q": TaskState.QUEUED, "f": TaskState.FINISHED}


@dataclass
class Story:
    """Workers `w` and `v` run the tasks `a` and `b`; `w` is killed at 5 with `b`, which `v` runs again."""

    moves: list[Move] = field(default_factory=list)
    executions: list[Execution] = field(default_factory=list)
    statuses: list[tuple[str, str, str, str]] = field(default_factory=list)
    records: dict[str, Any] = field(default_factory=dict)
    results: dict[str, bytes | None] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)
    tasks: dict[str, Enqueued] = field(default_factory=dict)
    fates: dict[str, Fate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        killed = Note("worker killed", frozenset({1}), 5, 5)
        self.fates["w"] = Struck("w", Path(), 4.5, pid=1, notes=[killed])
        self.fates["v"] = Struck("v", Path(), 20, pid=2, exit_code=exits.WORKER_STOPPED)
        for task_id in ("a", "b"):
            self.tasks[task_id] = Enqueued("plain", "alice", accepted=True)
            self.move(task_id, "qr", "pop", "w", 1)
        self.run("a", 1, "w", 1, 2)
        self.finish("a", 1, "w", 2)
        self.executions.append(Execution("b", 1, "w", 1, 4.5, returned=False))
        self.move("b", "rq", "reclaim", "w", 6)
        self.move("b", "qr", "pop", "v", 7)
        self.run("b", 3, "v", 7, 8)
        self.finish("b", 3, "v", 8)
        self.counters.update(enqueued=2, started=3, finished=2, reclaimed=1)

    def move(self, task_id: str, states: str, script: str, worker: str, at: float) -> None:
        self.moves.append(Move(task_id, states[0], states[1], script, worker, at))

    def run(self, task_id: str, fence: int, worker: str, start: float, end: float) -> None:
        self.executions.append(Execution(task_id, fence, worker, start, end, returned=True))

    def finish(self, task_id: str, fence: int, worker: str, at: float) -> None:
        self.move(task_id, "rf", "finish", worker, at)
        self.statuses.append((worker, task_id, str(fence), "finished"))
        self.record(task_id, "f", fence)
        self.results[task_id] = orjson.dumps([worker, fence])

    def record(self, task_id: str, state: str, settled: int) -> None:
        spec = {"payload": {"version": 0}}
        self.records[task_id] = SimpleNamespace(
            task_id=task_id, state=STATES[state], reason=None, settled=settled, read_spec=lambda: spec
        )

    def verdict(self) -> Verdict:
        outcome = Outcome(self.tasks, self.fates, Counts(), {})
        return Verdict(
            Evidence(outcome, self.moves, self.records, self.results, self.counters, self.executions, self.statuses)
        )


def test_a_good_run_has_no_problems_and_its_double_execution_is_explained() -> None:
    verdict = Story().verdict()
    assert verdict.problems == []
    assert verdict.causes() == "1 worker killed, still ran"
    assert verdict.tally() == {
        "accepted": 2, "completed": 2, "completed twice": 0, "lost": 0, "executed twice": 1,
    }  # fmt: skip


def completed_twice(story: Story) -> None:
    story.move("a", "rf", "finish", "w", 9)


def never_completed(story: Story) -> None:
    story.moves.pop()
    story.statuses.pop()
    story.record("b", "q", 0)
    story.results["b"] = None


def record_gone(story: Story) -> None:
    del story.records["b"]


def finished_by_a_zombie(story: Story) -> None:
    story.moves[-1] = Move("b", "r", "f", "finish", "w", 8)


def result_of_a_zombie(story: Story) -> None:
    story.results["b"] = orjson.dumps(["w", 1])


def acknowledged_without_a_completion(story: Story) -> None:
    story.statuses.append(("w", "b", "1", "finished"))


def last_holder_refused(story: Story) -> None:
    story.statuses[-1] = ("v", "b", "3", "stale")


def reclaimed_from_the_living(story: Story) -> None:
    story.fates["w"].ended_at = 6.5


def reclaimed_for_nothing(story: Story) -> None:
    story.fates["w"] = Struck("w", Path(), 4.5, pid=1, notes=[])


def ran_at_once(story: Story) -> None:
    story.executions[-1] = Execution("b", 3, "v", 4, 8, returned=True)


def executed_without_a_start(story: Story) -> None:
    story.run("a", 9, "v", 9, 10)


def attempt_executed_twice(story: Story) -> None:
    story.run("a", 1, "w", 3, 4)


def started_and_never_executed(story: Story) -> None:
    story.executions.pop()


def started_by_a_worker_that_was_reclaimed(story: Story) -> None:
    story.fates["v"].reclaimed_at = 6.5


def moved_from_nowhere(story: Story) -> None:
    story.moves[-1] = Move("b", "s", "f", "finish", "v", 8)


def never_enqueued(story: Story) -> None:
    story.move("x", "qr", "pop", "v", 9)


def miscounted(story: Story) -> None:
    story.counters["finished"] += 1


def over_its_limit(story: Story) -> None:
    for task_id in ("c", "d", "e"):
        story.tasks[task_id] = Enqueued("plain", "carol/team", accepted=None)
        story.move(task_id, "qr", "pop", "v", 9)


def slot_died(story: Story) -> None:
    story.fates["v"] = Struck("v", Path(), 20, pid=2, exit_code=81)


def vanished(story: Story) -> None:
    story.fates["v"] = Struck("v", Path(), 20, pid=2)


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (completed_twice, "task a ended 2 times"),
        (never_completed, "task b is queued"),
        (record_gone, "task b is lost"),
        (finished_by_a_zombie, "accepted, but v held the task"),
        (result_of_a_zombie, "has the result ['w', 1]"),
        (acknowledged_without_a_completion, "was completed 0 times, acknowledged 1 times"),
        (last_holder_refused, "completion of b with fence 3 is stale"),
        (reclaimed_from_the_living, "was alive and nobody had judged its lease"),
        (reclaimed_for_nothing, "although nothing happened to its worker w"),
        (ran_at_once, "began while"),
        (executed_without_a_start, "executed 1 times, started 0 times"),
        (attempt_executed_twice, "attempt ('a', 1) was executed 2 times"),
        (started_and_never_executed, "started 1 times for 0 executions"),
        (started_by_a_worker_that_was_reclaimed, "by a worker that was reclaimed"),
        (moved_from_nowhere, "although it stood at 'r'"),
        (never_enqueued, "of a task that was never enqueued"),
        (miscounted, "counter finished is 3, expected 2"),
        (over_its_limit, "user carol/team runs 3 tasks, at most 2 are allowed"),
        (slot_died, "worker v ended with 81"),
        (vanished, "worker v vanished, and nobody killed it"),
    ],
)
def test_each_fault_is_named(plant: Callable[[Story], None], said: str) -> None:
    story = Story()
    plant(story)
    problems = story.verdict().problems
    assert any(said in problem for problem in problems), problems


# Chaos: what was done, and what it explains


def struck(*notes: Note, told: tuple[str, ...] = (), exit_code: int | None = None) -> Struck:
    return Struck("w", Path(), 100, pid=1, notes=notes, told=told, exit_code=exit_code)


@pytest.mark.parametrize(
    ("fate", "at", "cause"),
    [
        (struck(), 50, None),
        (struck(Note("worker killed", frozenset({2}), 10, 10)), 50, None),
        (struck(Note("daemon killed", frozenset({1}), 10, 10)), 50, "daemon killed"),
        (struck(Note("daemon killed", frozenset({1}), 60, 60)), 50, None),
        (struck(Note(FROZEN, frozenset({1}), 10, 20)), 22, "frozen"),
        (struck(Note(FROZEN, frozenset({1}), 10, 20)), 50, None),
        (struck(Note(CUT_OFF, None, 10, 20)), 15, "cut off"),
        (struck(Note("worker killed", frozenset({1}), 10, 10), Note(CUT_OFF, None, 11, 20)), 15, "worker killed"),
        (struck(told=("worker main/1 was stopped for 4 s and is killed",)), 50, "frozen"),
        (struck(told=("worker main/1 did not end in time and is killed",)), 50, "drained"),
        (struck(exit_code=exits.WORKER_ORPHANED), 50, "master killed"),
        (struck(exit_code=1), 50, None),
    ],
)
def test_what_explains_a_loss(fate: Struck, at: float, cause: str | None) -> None:
    assert fate.cause(at, "reclaim") == cause


def test_the_fate_of_a_worker_is_read_from_its_log(tmp_path: Path) -> None:
    (tmp_path / "w.1.1").write_text("born 7 1.0\nstart t1 1 1 7 2.0\nbeat 2.5\nend t1 1 3.0\nstatus t1 1 finished\n")
    (tmp_path / "w.1.2").write_text("born 8 1.0\nexit 84 4.0\n")
    line = {"logger": "fairqued.master", "worker": "w.1.1", "message": "worker main/1 was sent SIGKILL"}
    host: Any = SimpleNamespace(logs=tmp_path, notes=[], daemon=SimpleNamespace(logs=lambda: [line]))
    killed, stopped = fates_of(host).values()
    assert isinstance(killed, Struck)
    assert isinstance(stopped, Struck)
    assert (killed.pid, killed.ended_at, killed.exit_code) == (7, 3.0, None)
    assert killed.told == ["worker main/1 was sent SIGKILL"]
    assert (stopped.pid, stopped.ended_at, stopped.exit_code) == (8, 4.0, 84)


def test_a_plan_follows_from_its_seed_and_has_some_of_everything() -> None:
    blows = plan(7, 60)
    assert blows == plan(7, 60)
    assert blows != plan(8, 60)
    assert {blow.kind for blow in blows} == KINDS.keys()
    assert blows == sorted(blows, key=lambda blow: blow.at)
    assert all(0 <= blow.at < 60 for blow in blows)
    for blow in blows:
        kind = KINDS[blow.kind]
        assert blow.target in kind.targets
        assert kind.lasts[0] <= blow.lasts <= kind.lasts[1]
    kills = {blow.target for blow in blows if blow.kind in ("kill a master", "kill a daemon")}
    assert kills == {Target.FRAIL}, "the steady master lives through it all"
    assert {blow.target for blow in plan(7, 600)} == set(BOTH)
