"""What the demo has to prove, as functions of what it saw: each returns a `Check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fairqued.demo.ran import Ran
from fairqued.demo.tasks import Counted

_NAMED_AT_MOST = 3


@dataclass(frozen=True, slots=True)
class Check:
    """One claim, whether it holds, and what it rests on."""

    claim: str
    holds: bool
    grounds: str


@dataclass(frozen=True, slots=True)
class Kill:
    """A worker that was killed: when by the server's clock, how many tasks it could hold, how many were put back."""

    at: float
    threads: int
    put_back: int


@dataclass(frozen=True, slots=True)
class Totals:
    """What many files hold."""

    files: int
    size: int
    zlib_size: int
    lines: int
    tokens: int
    refused: int

    @classmethod
    def of(cls, each: Iterable[Counted]) -> Totals:
        """Add them up."""
        rows = list(each)
        return cls(
            len(rows), sum(row.size for row in rows), sum(row.zlib_size for row in rows),
            sum(row.lines for row in rows), sum(row.tokens for row in rows), sum(not row.is_source for row in rows),
        )  # fmt: skip

    def __str__(self) -> str:
        return (
            f"{self.files:,} files, {self.lines:,} lines, {self.tokens:,} tokens, {self.size:,} bytes, "
            f"{self.zlib_size:,} after zlib; {self.refused} that tokenize refuses"
        )


def check_counted_once(
    expected: Mapping[str, Sequence[str]], tasks: Sequence[Ran], counters: Mapping[str, int]
) -> Check:
    """Every file that a user enqueued came back once, and the server counts one completion for each task."""
    claim = "Every file was counted exactly once"
    wanted = Counter((user, path) for user, paths in expected.items() for path in paths)
    found = Counter((task.user_id, task.counted.path) for task in tasks if task.counted)
    completions, others = counters.get("finished", 0), counters.get("failed", 0) + counters.get("cancelled", 0)
    if missing := wanted - found:
        problems = [task.problem for task in tasks if task.problem]
        return Check(claim, holds=False, grounds=f"{missing.total()} not counted: {_some(missing)}{_first(problems)}")
    if extra := found - wanted:
        return Check(claim, holds=False, grounds=f"{extra.total()} counted too often: {_some(extra)}")
    grounds = f"{wanted.total():,} tasks, {completions:,} completions in Redis, {others} failed or cancelled"
    return Check(claim, completions == wanted.total() and not others, grounds)


def check_totals(tasks: Sequence[Ran], direct: Mapping[str, Counted]) -> Check:
    """Each result, and so their sums, equals what was counted without the queue."""
    claim = "The results equal those of a direct count without the queue"
    counted = {task.counted.path: task.counted for task in tasks if task.counted}
    wrong = sorted(path for path in counted.keys() | direct.keys() if counted.get(path) != direct.get(path))
    wrong += [task.path for task in tasks if task.counted and task.counted != direct.get(task.path)]
    if wrong:
        return Check(claim, holds=False, grounds=f"{len(set(wrong))} differ: {_some(dict.fromkeys(wrong))}")
    return Check(claim, Totals.of(counted.values()) == Totals.of(direct.values()), str(Totals.of(direct.values())))


def check_kill(tasks: Sequence[Ran], kill: Kill, counters: Mapping[str, int]) -> Check:
    """The tasks that the killed worker held, and no others, ran once more."""
    claim = "The kill lost nothing"
    again = [task for task in tasks if task.attempts > 1]
    reclaimed, started = counters.get("reclaimed", 0), counters.get("started", 0)
    grounds = f"{len(tasks):,} tasks, {started:,} starts; {len(again)} ran twice: {_some(_names(again))}"
    if lost := [task for task in tasks if task.counted is None]:
        return Check(claim, holds=False, grounds=f"{len(lost)} did not finish: {_some(_names(lost))}")
    if unexplained := [task for task in again if not _is_explained(task, kill)]:
        return Check(claim, holds=False, grounds=f"{grounds}; not by the kill: {_some(_names(unexplained))}")
    if not len(again) == kill.put_back == reclaimed <= kill.threads or started != len(tasks) + reclaimed:
        return Check(
            claim, holds=False,
            grounds=f"{grounds}; put back by the kill: {kill.put_back} of at most {kill.threads}, in all: {reclaimed}",
        )  # fmt: skip
    return Check(claim, holds=True, grounds=f"{grounds}, as many as the killed worker held")


def check_end(exit_code: int | None) -> Check:
    """The daemon ended in good order."""
    return Check("The daemon stopped in good order", exit_code == 0, f"exit code {exit_code}")


def _is_explained(task: Ran, kill: Kill) -> bool:
    return task.attempts == 2 and task.enqueued_at <= kill.at <= task.started_at  # noqa: PLR2004


def _names(tasks: Iterable[Ran]) -> dict[tuple[str, str], None]:
    return {(task.user_id, task.path): None for task in tasks}


def _some(names: Mapping[tuple[str, str], object] | Mapping[str, object]) -> str:
    shown = [name if isinstance(name, str) else f"{name[1]} ({name[0]})" for name in names]
    more = ", ..." if len(shown) > _NAMED_AT_MOST else ""
    return (", ".join(shown[:_NAMED_AT_MOST]) + more) or "none"


def _first(problems: Sequence[str]) -> str:
    return f"; {problems[0]}" if problems else ""
