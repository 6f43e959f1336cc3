import multiprocessing
import os
from collections import Counter
from pathlib import Path

import pytest

from tests.support.ledger import Execution, Ledger, judge
from tests.support.wait import wait_until


def run(task_id: str, start: float = 0, end: float = 1, attempt: int = 1) -> Execution:
    return Execution(task_id, attempt, 1, start, end)


def write_many(path: Path, name: str) -> None:
    ledger = Ledger(path)
    for number in range(200):
        with ledger.execution(f"{name}-{number}", 1):
            pass


def test_lines_of_many_processes_stay_whole(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=write_many, args=(tmp_path / "ledger", str(number))) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    by_task = Ledger(tmp_path / "ledger").by_task()
    assert len(by_task) == 600
    assert Counter(len(executions) for executions in by_task.values()) == {1: 600}


def test_an_execution_that_fails_is_recorded_too(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    assert ledger.read() == []
    with pytest.raises(ValueError, match="no"), ledger.execution("a", 3):
        raise ValueError("no")
    (execution,) = ledger.read()
    assert (execution.task_id, execution.attempt, execution.pid) == ("a", 3, os.getpid())
    assert execution.start <= execution.end


def test_a_good_run_is_clean() -> None:
    verdict = judge([run("a"), run("b")], {"a": 1, "b": 1}, accepted=["a"], refused=["c"], unknown=["b", "d"])
    assert verdict.clean
    assert not verdict.executed_twice


@pytest.mark.parametrize(
    ("name", "executions", "completions"),
    [
        ("lost", [run("a")], {}),
        ("completed_twice", [run("a")], {"a": 2}),
        ("finished_without_execution", [], {"a": 1}),
        ("never_accepted", [run("a"), run("x")], {"a": 1}),
        ("never_accepted", [run("a"), run("refused")], {"a": 1}),
    ],
)
def test_each_fault_is_named(name: str, executions: list[Execution], completions: dict[str, int]) -> None:
    verdict = judge(executions, completions, accepted=["a"], refused=["refused"])
    assert not verdict.clean
    assert getattr(verdict, name)


def test_double_executions_are_told_and_overlaps_apart() -> None:
    executions = [run("after", 0, 1), run("after", 1, 2, 2), run("at once", 0, 2), run("at once", 1, 3, 2)]
    verdict = judge(executions, {"after": 1, "at once": 1}, accepted=["after", "at once"])
    assert verdict.clean
    assert set(verdict.executed_twice) == {"after", "at once"}
    assert verdict.overlapping == {"at once"}


def test_wait_until_returns_the_answer_or_says_what_was_awaited() -> None:
    answers = iter([0, 0, 7])
    assert wait_until(lambda: next(answers), 5, "seven") == 7
    with pytest.raises(AssertionError, match=r"the moon: not within 0 s \(last answer: None\)"):
        wait_until(lambda: None, 0, "the moon")
