"""Whether work gets on in a namespace: who serves what waits, who judges leases, and who does not come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairqued.doctor.finding import Finding, error, ok, warning
from fairqued.info import QueueStats
from fairqued.keys import base_queue
from fairqued.store import Store

SCHEMA = 1
"""The newest version of a namespace that this release knows, as `meta.SCHEMA` of its scripts."""
_PATIENCE_US = 10_000_000
_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One look at a namespace. Times are microseconds of the server's clock."""

    now: float
    schema: int | None = None
    ticked: float | None = None
    depths: Mapping[str, int]
    leases: Mapping[str, float]
    """The end of each registered worker's lease."""
    served: frozenset[str] = frozenset()
    """The queues that workers with a lease serve."""
    due: float | None = None
    """When the first SCHEDULED task is due."""
    parked: Sequence[str] = ()
    """Some of the users that are parked."""
    parked_count: int = 0
    open_by_place: int = 0
    """Tasks that have not ended, counted where they stand."""
    open_by_counters: int = 0
    """The same by the counters of transitions."""

    @property
    def is_in_use(self) -> bool:
        """Whether there is work, or somebody to do it."""
        return bool(self.open_by_place or self.leases)


def namespace_findings(store: Store) -> list[Finding]:
    """Everything that can be told of a namespace cheaply, good and bad. Raises QueueUnavailable, NotAllowed."""
    return judge(_gather(store))


def judge(facts: Facts) -> list[Finding]:
    """What is to be said of these facts."""
    return [finding for check in _CHECKS for finding in check(facts)]


def schema_is_known(facts: Facts) -> Iterator[Finding]:
    """A newer fairqued may have written what this one cannot read."""
    if facts.schema is None:
        yield ok("schema", "nobody has used this namespace yet")
    elif facts.schema > SCHEMA:
        yield error(
            "schema", f"this namespace has schema version {facts.schema}, this release knows {SCHEMA}",
            "upgrade fairqued here",
        )  # fmt: skip
    else:
        yield ok("schema", f"schema version {facts.schema}")


def somebody_ticks(facts: Facts) -> Iterator[Finding]:
    """Without a master nobody puts back what dead workers held."""
    if not facts.is_in_use:
        return
    advice = "start fairqued on some host"
    if facts.ticked is None:
        yield warning("daemon", "no daemon has ever served this namespace", advice)
    elif facts.now - facts.ticked > _PATIENCE_US:
        since = (facts.now - facts.ticked) / 1e6
        yield warning("daemon", f"no daemon has judged leases for {since:.0f} s: nobody finds dead workers", advice)
    else:
        yield ok("daemon", "a daemon judges leases")


def leases_are_kept(facts: Facts) -> Iterator[Finding]:
    """A worker whose lease is over is dead, or cut off; its tasks go back at the next tick."""
    over = [worker for worker, end in facts.leases.items() if facts.now - end > _PATIENCE_US]
    if over:
        yield warning(
            "leases", f"{len(over)} registered workers have no lease any more: {_some(over)}",
            "a daemon of this namespace puts back what they held, ten workers a second; is there one?",
        )  # fmt: skip
    else:
        yield ok("leases", f"{len(facts.leases)} workers are registered, none without a lease")


def queues_are_served(facts: Facts) -> Iterator[Finding]:
    """What waits in a queue that no pool names waits for ever."""
    for queue, waiting in sorted(facts.depths.items()):
        if waiting and base_queue(queue) not in facts.served:
            yield warning(
                "queues", f"{waiting} tasks wait in queue {queue}, which no registered worker serves",
                "name it in pools[].queues of a daemon, and reload that",
            )  # fmt: skip


def due_tasks_are_queued(facts: Facts) -> Iterator[Finding]:
    """SCHEDULED tasks are queued by daemons, and by workers that pop."""
    if facts.due is not None and facts.now - facts.due > _PATIENCE_US:
        late = (facts.now - facts.due) / 1e6
        yield warning(
            "scheduled", f"a SCHEDULED task has been due for {late:.0f} s, and nobody has queued it",
            "start fairqued with scheduler.enabled",
        )  # fmt: skip


def parked_users_are_told(facts: Facts) -> Iterator[Finding]:
    """It is meant to be so; it is also why their tasks do not run."""
    if facts.parked_count:
        yield ok(
            "parked",
            f"{facts.parked_count} users have work, but are paused or run max_running tasks: {_some(facts.parked)}",
        )


def counters_fit(facts: Facts) -> Iterator[Finding]:
    """A task that is in no place, or in two, shows here first."""
    if facts.open_by_place != facts.open_by_counters:
        yield warning(
            "counters",
            f"{facts.open_by_counters} tasks should be open by the counters, {facts.open_by_place} are found",
            "`fairquectl doctor --deep` looks at every key",
        )


_CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    schema_is_known, somebody_ticks, leases_are_kept, queues_are_served, due_tasks_are_queued, parked_users_are_told,
    counters_fit,
)  # fmt: skip


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def _gather(store: Store) -> Facts:
    stats = QueueStats.of(store.stats(0))
    of = store.keys.of

    def look(client: Any) -> list[Any]:
        with client.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.hmget(store.keys.meta, "schema", "ticked")
            pipe.zrange(of("workers"), 0, -1, withscores=True)
            pipe.zrange(of("scheduled"), 0, 0, withscores=True)
            pipe.scard(of("parked"))
            pipe.srandmember(of("parked"), _NAMED)
            return list(pipe.execute())

    (seconds, micro), (schema, ticked), leases, first, parked_count, parked = store.connection.call(look)
    now, counters = seconds * 1e6 + micro, stats.counters
    return Facts(
        now=now,
        schema=int(schema) if schema else None,
        ticked=float(ticked) if ticked else None,
        depths=stats.depth,
        leases={_text(worker): end for worker, end in leases},
        served=_served(stats),
        due=first[0][1] if first else None,
        parked=[_text(user) for user in parked],
        parked_count=parked_count,
        open_by_place=sum(stats.depth.values()) + stats.scheduled + stats.started,
        open_by_counters=sum(counters.get(name, 0) for name in ("enqueued", "revived"))
        - sum(counters.get(name, 0) for name in ("finished", "failed", "cancelled")),
    )


def _served(stats: QueueStats) -> frozenset[str]:
    with_lease = (worker.info for worker in stats.workers if worker.lease_seconds > 0)
    return frozenset(queue for info in with_lease for queue in info.get("queues") or ())


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")
