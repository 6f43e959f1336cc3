"""`TaskScheduler`: the thread of the master that does the chores of a namespace.

Each unit of work is one call of Redis, of at most about a second, done at the fork gate.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from fairqued.crash_points import crash_point
from fairqued.scheduler import suspects
from fairqued.store import CHUNK, Ended, Store
from fairqued.troubles import Troubles

logger = logging.getLogger("fairqued.scheduler")

_TICK_SECONDS = 1.0
_PROMOTE_SECONDS = 0.5
_ACCUSING = ("death", "crash")
_RETRY_SECONDS = 0.2
_ERRAND_AGAIN_SECONDS = 1.0
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
    max_crashes: int = 3
    queues: Sequence[str] = ()
    """The queues that the master's workers serve."""
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


@dataclass(frozen=True, kw_only=True)
class Death:
    """A worker that is gone, and what is to become of the tasks it held."""

    worker_id: str
    why: str
    """As for reclaim.lua: death, crash, drain or lost."""
    error: bytes = b""
    """JSON, for a task that is given up because it crashed too often."""
    wills: Sequence[Ended] = ()
    """How tasks end that were past their hard deadline."""


class Master(Protocol):
    """Who a scheduler works for."""

    def living(self) -> list[str]:
        """The workers whose leases it vouches for."""

    def renewed(self, worker_ids: Iterable[str], at: float) -> None:
        """The leases of these were renewed, not before that moment (monotonic)."""

    def hidden_work(self, queues: Sequence[str]) -> None:
        """The hidden queues of these have work that nobody may serve but a worker with one slot."""

    def put_back(self, worker_id: str) -> None:
        """All that this worker held was put back."""


class TaskScheduler:
    """Ticks, promotes, trims, and puts back the tasks of dead workers as soon as it is told of them."""

    def __init__(self, store: Store, gate: Gate, settings: Settings, master: Master) -> None:
        """`master` is called from the scheduler's thread."""
        self._store, self._gate, self._master = store, gate, master
        self._dead: deque[Death] = deque()
        self._errands: dict[str, Callable[[Store], object]] = {}
        self._wake = threading.Event()
        self.settle(settings)
        self._stop_by: float | None = None
        self._troubles = Troubles(logger)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, in a thread."""
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether the thread is at work."""
        return self._thread is not None and self._thread.is_alive()

    def stop(self, within_seconds: float) -> list[str]:
        """End the thread, which puts back what it can before; the workers whose tasks remain.

        It takes no longer than that, even if the thread is held up (by a name server that does not answer, say): it is
        left alone then.
        """
        self._stop_by = time.monotonic() + within_seconds
        self._wake.set()
        if self._thread is None or not self._thread.is_alive():
            self.start()
        assert self._thread is not None
        self._thread.join(within_seconds)
        return [each.worker_id for each in tuple(self._dead)]

    def settle(self, settings: Settings) -> None:
        """Work with these settings from now on."""
        self._settings = settings
        chores = [Chore("tick", _TICK_SECONDS, self.tick)]
        if not settings.only_own_workers:
            chores += [Chore("promote", _PROMOTE_SECONDS, self.promote), Chore("trim", _TICK_SECONDS, self.trim)]
        self._chores = chores

    def put_back(self, death: Death) -> None:
        """Put back what a dead worker held, at once or as soon as Redis answers."""
        self._dead.append(death)
        self._wake.set()

    def run_errand(self, name: str, errand: Callable[[Store], object]) -> None:
        """Do something once, at once or as soon as Redis answers; it takes the place of one of the same name."""
        self._errands[name] = errand
        self._wake.set()

    @property
    def sees_redis(self) -> bool:
        """Whether Redis answered the last call."""
        return self._troubles.is_answered

    def redis_state(self) -> dict[str, Any]:
        """Whether Redis answers, and since when it does not (seconds)."""
        away = self._troubles.away_since
        return {"reachable": away is None, "away_seconds": round(time.monotonic() - away, 1) if away else 0}

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for the main thread
        while True:
            self._wake.clear()
            if self._stop_by is not None:
                break
            pause = min(self._put_back_all(), self._run_errands(), self._do_chores())
            self._wake.wait(pause)
        while self._put_back_all() == _RETRY_SECONDS and time.monotonic() < self._stop_by:
            time.sleep(_RETRY_SECONDS)

    # Chores

    def _do_chores(self) -> float:
        """Returns the seconds until the next one is due."""
        now = time.monotonic()
        for chore in self._chores:
            if chore.due_at <= now and self._stop_by is None:
                more = self._attempt(chore.name, chore.run_once)
                chore.due_at = now if more else now + chore.seconds
        return max(0.0, min(chore.due_at for chore in self._chores) - time.monotonic())

    def tick(self) -> bool:
        """Renew and judge leases."""
        living, began_at = self._master.living(), time.monotonic()
        tick = self._store.tick(self._settings.lease_us, self._settings.silence_us, living, self._settings.queues)
        self._master.renewed(living, began_at)
        if not tick.judged:
            logger.warning("no tick for a while: all leases are renewed, none is judged")
        if tick.dead:
            logger.warning("lease over: %s; %d tasks put back", ", ".join(tick.dead), tick.put_back)
        if tick.hidden:
            self._master.hidden_work(tick.hidden)
        return bool(tick.dead)

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
        dead = self._dead[0]
        accused = self._store.held_by(dead.worker_id, suspects.MOST_TOLD) if dead.why in _ACCUSING else []
        put_back, left = self._store.reclaim(
            dead.worker_id, dead.why, max_crashes=self._settings.max_crashes, error=dead.error, wills=dead.wills
        )
        crash_point("in_reclaim")
        if put_back:
            logger.info("%d tasks of %s put back (%s)", put_back, dead.worker_id, dead.why)
        if not left:
            self._dead.popleft()
            self._master.put_back(dead.worker_id)
            self._tick_soon()  # it tells of hidden queues with work
        suspects.tell(self._store, accused)
        return bool(left)

    def _tick_soon(self) -> None:
        for chore in self._chores:
            if chore.name == "tick":
                chore.due_at = 0.0

    def _run_errands(self) -> float:
        """Returns as `_put_back_all`."""
        for name in tuple(self._errands):
            if self._stop_by is None:
                self._run_errand(name, self._errands.pop(name))
        return _ERRAND_AGAIN_SECONDS if self._errands else float("inf")

    def _run_errand(self, name: str, errand: Callable[[Store], object]) -> None:
        if self._attempt(name, lambda: bool(errand(self._store))) is None:
            self._errands.setdefault(name, errand)  # unless a newer one has come meanwhile

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
