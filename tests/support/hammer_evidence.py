"""Everything that was written down in a run of the hammer: by the client, by the workers, by the server."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fairqued.record import Record
from fairqued.store import Store
from tests.support.audit import Move, read_moves
from tests.support.fate import Fate
from tests.support.hammer import Outcome

_CHUNK = 1000


@dataclass(frozen=True, slots=True)
class Execution:
    """One run of a task by a worker; `end` is that of the process if it ended first."""

    task_id: str
    fence: int
    worker_id: str
    start: float
    end: float
    returned: bool


@dataclass
class Evidence:
    """All that was written down."""

    outcome: Outcome
    moves: list[Move]
    records: Mapping[str, Record]
    results: Mapping[str, bytes | None]
    counters: Mapping[str, int]
    executions: list[Execution] = field(default_factory=list)
    statuses: list[tuple[str, str, str, str]] = field(default_factory=list)
    """Worker, task, fence, status of each completion that was acknowledged."""


def gather(outcome: Outcome, store: Store) -> Evidence:
    """Read the logs of the workers and all of Redis."""
    client: Any = store.connection.client
    records: dict[str, Record] = {}
    results: dict[str, bytes | None] = {}
    ids = list(outcome.tasks)
    for start in range(0, len(ids), _CHUNK):
        some = ids[start : start + _CHUNK]
        raws = client.mget([store.keys.of("task", task_id) for task_id in some])
        records |= {task_id: Record.parse(task_id, raw) for task_id, raw in zip(some, raws, strict=True) if raw}
        results |= zip(some, client.mget([store.keys.of("result", task_id) for task_id in some]), strict=True)
    counters = {name.decode(): int(number) for name, number in client.hgetall(store.keys.of("counters")).items()}
    evidence = Evidence(outcome, read_moves(client), records, results, counters)
    for fate in outcome.fates.values():
        _read_log(fate, evidence)
    return evidence


def _read_log(fate: Fate, evidence: Evidence) -> None:
    running: dict[tuple[str, str], float] = {}
    lines = fate.log.read_text().splitlines() if fate.log.exists() else []
    for line in lines:
        match line.split():
            case "start", task_id, fence, _, _, at:
                running[task_id, fence] = float(at)
            case "end", task_id, fence, at:
                start = running.pop((task_id, fence))
                done = Execution(task_id, int(fence), fate.worker_id, start, float(at), returned=True)
                evidence.executions.append(done)
            case "status", task_id, fence, status:
                evidence.statuses.append((fate.worker_id, task_id, fence, status))
            case "exit", *_, at:
                fate.ended_at = float(at)
            case (("born" | "beat"), *_):
                continue
            case _:
                raise AssertionError(f"{fate.log}: {line!r}")
    for (task_id, fence), start in running.items():
        end = fate.ended_at or start
        evidence.executions.append(Execution(task_id, int(fence), fate.worker_id, start, end, returned=False))
