"""`TaskScheduler`: the thread of the master that does the chores of a namespace.

Each unit of work is one call of Redis, of at most about a second, done at the fork gate.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from fairqued.store import CHUNK, Store
from fairqued.troubles import Troubles

logger = logging.getLogger("fairqued.scheduler")

_TICK_SECONDS = 1.0
_PROMOTE_SECONDS = 0.5
_RETRY_SECONDS = 0.2
_DEDUP_OWN_US = 60_000_000
_LONGEST_SILENCE_US = 5_000_000


class Gate(Protocol):
    """Where units of work are done."""

    def work(self) -> AbstractContextManager[None]:
        """One unit of work."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Durations in microseconds; `finished` and `failed` are (age, count) of the tasks to keep."""

    lease_us: int
    finished: tuple[int, int]
    failed: tuple[int, int]
    dedup_us: int
    only_own_workers: bool = False
    """Leave promoting and trimming to the schedulers of other daemons."""

    @property
    def silence_us(self) -> int:
        """Longest time between two ticks after which leases are still judged."""
        return min(_LONGEST_SILENCE_US, self.lease_us // 2)


@dataclass
class Chore:
    """Something to do every `seconds`; `run_once` returns True when more is left to do at once."""

    name: str
    seconds: float
    run_once: Callable[[], bool]
    due_at: float = 0.0


@dataclass(frozen=True)
class _PutBack:
    worker_id: str
    why: str
    done: Callable[[str], None]


class TaskScheduler:
    """Ticks, promotes, trims, and puts back the tasks of dead workers as soon as it is told of them."""

    def __init__(self, store: Store, gate: Gate, settings: Settings, *, living: Callable[[], Iterable[str]]) -> None:
        """`living` names the workers whose leases this master vouches for."""
        self._store, self._gate, self._settings, self._living = store, gate, settings, living
        self._chores = [Chore("tick", _TICK_SECONDS, self.tick)]
        if not settings.only_own_workers:
            self._chores += [Chore("promote", _PROMOTE_SECONDS, self.promote), Chore("trim", _TICK_SECONDS, self.trim)]
        self._dead: deque[_PutBack] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._troubles = Troubles(logger)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, in a thread."""
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether the thread is at work."""
        return self._thread is not None and self._thread.is_alive()

    def stop(self) -> None:
        """End the thread."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def put_back(self, worker_id: str, why: str, done: Callable[[str], None]) -> None:
        """Put back what a dead worker held, at once or as soon as Redis answers; then call `done(worker_id)`."""
        self._dead.append(_PutBack(worker_id, why, done))
        self._wake.set()

    def finish_put_back(self, timeout_seconds: float) -> list[str]:
        """Do what is left of it in the calling thread, while the thread does not run; the workers that remain."""
        deadline = time.monotonic() + timeout_seconds
        while self._dead and time.monotonic() < deadline:
            if self._put_back_all() == _RETRY_SECONDS:
                time.sleep(min(_RETRY_SECONDS, max(0.0, deadline - time.monotonic())))
        return [each.worker_id for each in self._dead]

    @property
    def sees_redis(self) -> bool:
        """Whether Redis answered the last call."""
        return self._troubles.away_since is None

    def redis_state(self) -> dict[str, Any]:
        """Whether Redis answers, and since when it does not (seconds)."""
        away = self._troubles.away_since
        return {"reachable": away is None, "away_seconds": round(time.monotonic() - away, 1) if away else 0}

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            pause = self._put_back_all()
            now = time.monotonic()
            for chore in self._chores:
                if chore.due_at <= now and not self._stopping:
                    more = self._attempt(chore.name, chore.run_once)
                    chore.due_at = now if more else now + chore.seconds
            next_chore = min(chore.due_at for chore in self._chores) - time.monotonic()
            self._wake.wait(max(0.0, min(pause, next_chore)))

    # Chores

    def tick(self) -> bool:
        """Renew and judge leases."""
        judged, put_back, dead = self._store.tick(
            self._settings.lease_us, self._settings.silence_us, list(self._living())
        )
        if not judged:
            logger.warning("no tick for a while: all leases are renewed, none is judged")
        if dead:
            logger.warning("lease over: %s; %d tasks put back", ", ".join(dead), put_back)
        return bool(dead)

    def promote(self) -> bool:
        """Queue delayed tasks whose time has come."""
        promoted, next_due = self._store.promote()
        return promoted > 0 and next_due == 0

    def trim(self) -> bool:
        """Drop what is kept no longer."""
        s = self._settings
        tasks, tombstones = self._store.trim(s.finished, s.failed, s.dedup_us, _DEDUP_OWN_US)
        return tasks + tombstones >= CHUNK

    def _put_back_all(self) -> float:
        """Returns the seconds after which to try again; infinity when nothing is left."""
        while self._dead:
            if self._attempt("reclaim", self._put_back_one) is None:
                self._dead.rotate(-1)  # one that fails for a reason of its own does not hold up the others
                return _RETRY_SECONDS
        return float("inf")

    def _put_back_one(self) -> bool:
        each = self._dead[0]
        put_back, left = self._store.reclaim(each.worker_id, each.why)
        if put_back:
            logger.info("%d tasks of %s put back (%s)", put_back, each.worker_id, each.why)
        if not left:
            self._dead.popleft()
            each.done(each.worker_id)
        return bool(left)

    def _attempt(self, name: str, run_once: Callable[[], bool]) -> bool | None:
        """One unit of work at the gate; None when it failed. An error never ends the thread, and is told once."""
        with self._gate.work():
            try:
                more = run_once()
            except Exception as error:  # noqa: BLE001 - it is told
                self._troubles.begin(name, error)
                return None
            self._troubles.end(name)
            return more
