"""What a daemon and its namespace take up, at the start of a run and at its end: what grows is a leak."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import psutil

from fairqued.store import Store

GROWTH_MEGABYTES = 6.0
_STAY = frozenset({"counters", "dead", "tombstones", "tombstones_due", "spent", "bell"})
"""Counts, markers, and what refuses late calls for a while."""
_OF_WORKERS = frozenset({"worker", "workers", "claims"})
_HOUR_US = 3_600_000_000


@dataclass(frozen=True)
class Footprint:
    """What a master takes up."""

    descriptors: int
    threads: int
    megabytes: float

    @classmethod
    def of(cls, pid: int) -> Footprint:
        """Measure a process; memory is its proportional share."""
        process = psutil.Process(pid)
        return cls(process.num_fds(), process.num_threads(), process.memory_full_info().pss / 1e6)

    def growth(self, since: Footprint) -> Iterator[str]:
        """What is more than it was, in words."""
        if self.descriptors > since.descriptors:
            yield f"the master has {self.descriptors} descriptors, {since.descriptors} at the start"
        if self.threads > since.threads:
            yield f"the master has {self.threads} threads, {since.threads} at the start"
        if self.megabytes > since.megabytes + GROWTH_MEGABYTES:
            yield f"the master takes {self.megabytes:.1f} MB, {since.megabytes:.1f} at the start"


def count_keys(store: Store, *, workers: bool = True) -> Counter[str]:
    """How many keys of each kind there are once every task is dropped; those of workers can be left out."""
    while any(store.trim((0, 0), (0, 0), 0, 0)):
        pass
    store.tick(_HOUR_US, _HOUR_US, ())
    client, prefix = store.connection.client, store.keys.prefix
    kinds = Counter(
        key.decode().removeprefix(prefix).split(":")[0] for key in client.scan_iter(f"{prefix}*", count=1000)
    )
    left_out = _STAY if workers else _STAY | _OF_WORKERS
    return Counter({kind: number for kind, number in kinds.items() if kind not in left_out})


@dataclass(frozen=True)
class Growth:
    """Start and end of a run."""

    before: Footprint
    after: Footprint
    keys_before: Counter[str]
    keys_after: Counter[str]

    def problems(self) -> Iterator[str]:
        """What has grown."""
        yield from self.after.growth(self.before)
        for kind, number in (self.keys_after - self.keys_before).items():
            yield f"{number} keys {kind} more than at the start"

    def told(self) -> Mapping[str, str]:
        """All of it, for people."""
        before, after = self.before, self.after
        return {
            "descriptors": f"{before.descriptors} at the start, {after.descriptors} at the end",
            "threads": f"{before.threads} at the start, {after.threads} at the end",
            "memory": f"{before.megabytes:.1f} MB at the start, {after.megabytes:.1f} MB at the end",
            "keys": f"{self.keys_before.total()} at the start, {self.keys_after.total()} at the end",
        }
