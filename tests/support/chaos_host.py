"""One daemon of a chaos run, its network, the logs of its workers, and notes of all that was done to them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import chaos_daemon
from tests.support.chaos_plan import Target
from tests.support.daemon import Daemon, title
from tests.support.hammer import CALM, OUTAGE
from tests.support.proxy import Faults, FaultyProxy

KILLED, FROZEN, CUT_OFF = "killed", "frozen", "cut off"


@dataclass(frozen=True)
class Note:
    """Something that happened to processes: they were killed, or could not renew their leases for a while."""

    what: str
    pids: frozenset[int] | None
    """None: to all workers of the host."""
    start: float
    until: float

    def concerns(self, pid: int) -> bool:
        """Whether it happened to this process."""
        return self.pids is None or pid in self.pids

    @property
    def is_death(self) -> bool:
        """Whether they did not survive it."""
        return KILLED in self.what

    def is_felt(self, at: float, lease_seconds: float) -> bool:
        """Whether it may be the reason for what happens then."""
        return self.start <= at and (self.is_death or at < self.until + lease_seconds)


@dataclass
class Host:
    """One daemon and what belongs to it."""

    target: Target
    daemon: Daemon
    proxy: FaultyProxy
    logs: Path
    notes: list[Note] = field(default_factory=list)
    weather: Faults = CALM
    is_cut_off: bool = False
    is_down: bool = True
    is_stopping: bool = False

    def start(self) -> None:
        """Start the daemon."""
        self.daemon.start(env=chaos_daemon.program(self.logs)[1])
        self.is_down = self.is_stopping = False

    def processes(self) -> list[int]:
        """All that its master has forked, also what does not call itself a worker yet."""
        return [process.pid for process in self.daemon.children()]

    def workers(self) -> list[int]:
        """Its living workers, but for those that serve a hidden queue: there each death rightly counts.

        While there are any its master is up, and takes signals.
        """
        return [] if self.is_down else [pid for pid in self.daemon.worker_pids() if "!" not in title(pid)]

    def note(self, what: str, pids: Iterable[int] | None, lasts: float = 0.0) -> None:
        """Write down that something happens to these processes from now on."""
        now = time.time()
        self.notes.append(Note(what, None if pids is None else frozenset(pids), now, now + lasts))

    def refresh_network(self) -> None:
        """Let the network be as it should be now."""
        self.proxy.inject(OUTAGE if self.is_cut_off else self.weather)
