"""Whether a worker process still lives: by the counters that it shares with its master, and by the kernel's."""

from __future__ import annotations

import time

import psutil

from fairqued.daemon.config import Config, PoolSettings
from fairqued.store import Ended
from fairqued.worker.vitals import Vitals, Wish

_LONGEST_GAP_SECONDS = 5.0
"""A master that did not look for longer was stopped itself, perhaps together with its workers: it begins anew."""
_LEAST_CPU_SHARE = 0.05
"""Threads that wait for the interpreter wake up now and then: that much is no sign of life."""
_PATIENCE_SECONDS = 2.0
"""How long after a hard deadline the worker itself may act."""


class Pulse:
    """Looks after one worker, about once a second.

    A worker that is stopped for as long as a lease, or that neither beats nor uses the CPU for `wedged_seconds`, will
    not come back by itself.
    """

    def __init__(self, pid: int, vitals: Vitals, pool: PoolSettings, config: Config) -> None:
        self._process: psutil.Process | None = None
        self._pid, self._vitals, self._pool = pid, vitals, pool
        self._lease_seconds, self._wedged_seconds = config.worker.lease_seconds, config.worker.wedged_seconds
        self._beats, self._cpu_seconds = 0, 0.0
        self.wish = ""
        """Why the worker is to be replaced; empty while it need not."""
        self.begin(time.monotonic())

    def begin(self, now: float) -> None:
        """Take the worker for alive now, whatever was before."""
        self._looked_at = self._moved_at = self._ran_at = now

    def look(self, now: float) -> str:
        """Why this worker has to be killed; empty if it lives."""
        since_last_look = now - self._looked_at
        if since_last_look > _LONGEST_GAP_SECONDS:
            self.begin(now)
        self._looked_at = now
        try:
            return self._look(now, since_last_look)
        except psutil.Error:  # it has just died
            return ""

    def _look(self, now: float, since_last_look: float) -> str:
        self._process = process = self._process or psutil.Process(self._pid)
        with process.oneshot():
            status = process.status()
            used = process.cpu_times()
            self.wish = self.wish or self._wish_of(process, now)
        if status != psutil.STATUS_STOPPED:
            self._ran_at = now
        if status == psutil.STATUS_TRACING_STOP:  # somebody looks at it with a debugger
            self._moved_at = now
        beats, cpu_seconds = self._vitals.beats, used.user + used.system
        if beats != self._beats or cpu_seconds - self._cpu_seconds > _LEAST_CPU_SHARE * since_last_look:
            self._moved_at = now
        self._beats, self._cpu_seconds = beats, cpu_seconds
        if now - self._ran_at >= self._lease_seconds:
            return f"was stopped for {now - self._ran_at:.0f} s"
        if now - self._moved_at >= self._wedged_seconds:
            return f"gave no sign of life for worker.wedged_seconds ({self._wedged_seconds:g})"
        return ""

    def _wish_of(self, process: psutil.Process, now: float) -> str:
        match self._vitals.wish:
            case Wish.MAX_TASKS:
                return f"it has run pools[{self._pool.name}].max_tasks ({self._pool.max_tasks})"
            case Wish.WEDGED:
                return "a task does not end"
        if any(will.hard_at + _PATIENCE_SECONDS < now for will in self._vitals.wills()):
            return "a task does not end, and lets nothing else run"
        most = self._pool.max_rss_mb
        if most and (takes := process.memory_info().rss / 1e6) > most:
            return f"it takes {takes:.0f} MB, more than pools[{self._pool.name}].max_rss_mb ({most})"
        return ""

    def wills(self, now: float) -> list[Ended]:
        """What is to become of the tasks that were past their hard deadline when the worker died."""
        return [will.ended for will in self._vitals.wills() if will.hard_at <= now]
