"""The demo's run: one big user, two small ones, an urgent task, a killed worker; then the proof that all went well."""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from fairqued.daemon.embedded import find_server
from fairqued.demo import report
from fairqued.demo.checks import Check, Kill, check_counted_once, check_end, check_kill, check_totals
from fairqued.demo.corpus import count_directly, spread, stdlib_files
from fairqued.demo.private_daemon import DaemonTrouble, PrivateDaemon
from fairqued.demo.ran import Ran, look_up
from fairqued.demo.stop import Stopped, StopRequest
from fairqued.demo.tasks import Counted, count
from fairqued.demo.view import Standing, Stopwatch, View, make_console, open_view, say, seconds
from fairqued.info import QueueStats, WorkerInfo
from fairqued.queue import TaskHandle, TaskQueue
from fairqued.state import Priority

PROCESSES, THREADS = 2, 2
SLOTS = PROCESSES * THREADS
SMALL_BATCH = 30

_SMALL_COME_AT, _KILL_AT, _URGENT_AT = 0.15, 0.5, 0.75
_LOOK_SECONDS, _CLOSE_LOOK_SECONDS, _STALLED_SECONDS = 0.02, 0.002, 60.0
_WHY_TWO_THREADS = (
    "tokenize holds Python's interpreter lock, so the 2 tasks of a worker share one core: slot time is longer than "
    "computing time, for every user alike."
)


def run_demo(*, most_files: int | None = None, state_dir: Path | None = None) -> int:
    """Run it all; returns the exit code.

    Raises:
        ConfigError: there is no Redis server, or `state_dir` cannot be used.
        FairquedError: the daemon or the queue failed.
    """
    find_server(None)
    console, watch = make_console(), Stopwatch()
    try:
        with StopRequest() as stop:
            return _perform(console, watch, stop, most_files, state_dir)
    except Stopped as stopped:
        say(console, f"demo: ended by {stopped}; its daemon is stopped", "bold")
        return 128 + stopped.number


def _perform(
    console: Console, watch: Stopwatch, stop: StopRequest, most_files: int | None, state_dir: Path | None
) -> int:
    library = stdlib_files()
    files = spread(library, most_files or len(library))
    what = f"{len(files):,} files of the standard library of Python {platform.python_version()}"
    with PrivateDaemon(state_dir, processes=PROCESSES, threads=THREADS, stop=stop) as daemon:
        say(console, f"fairqued demo: {what}", "bold")
        say(console, f"A daemon is up (process {daemon.pid}): {PROCESSES} workers x {THREADS} threads = {SLOTS} slots, "
                     f"an embedded Redis, all in {daemon.state}")  # fmt: skip
        say(console, _WHY_TWO_THREADS)
        with open_view(console) as view:
            act = Act(daemon, view)
            act.play(_work(files, library))
        tasks, counters = act.outcome()
    report.print_waits(console, tasks, SLOTS)
    report.print_shares(console, tasks, ("whale", "alice", "bob"))
    everything = sorted({path for paths in act.work.values() for path in paths})
    say(console, f"Counting all {len(everything):,} files again, without the queue, by multiprocessing ...")
    checks = [
        check_counted_once(act.work, tasks, counters),
        check_totals(tasks, count_directly(everything, while_waiting=stop.check)),
        check_kill(tasks, act.kill, counters),
        check_end(daemon.exit_code),
    ]
    is_well = report.print_checks(console, checks)
    if state_dir:
        say(console, f"Kept: configuration, log and Redis data in {state_dir}")
    say(console, _last_line(checks, watch.seconds), "bold green" if is_well else "bold red")
    return 0 if is_well else 1


def _work(files: Sequence[str], library: Sequence[str]) -> dict[str, list[str]]:
    return {
        "whale": list(files),
        "alice": spread(library, SMALL_BATCH, offset=0.3),
        "bob": spread(library, SMALL_BATCH, offset=0.6),
        "carol": spread(library, 1, offset=0.5),
    }


def _last_line(checks: Sequence[Check], took: float) -> str:
    failed = sum(not check.holds for check in checks)
    if failed:
        return f"demo: FAILED: {failed} of {len(checks)} checks, after {took:.1f} s"
    return f"demo: OK: all {len(checks)} checks hold, after {took:.1f} s"


class Act:
    """What happens on the stage, in order; `play` it once, then ask for the `outcome`."""

    kill: Kill

    def __init__(self, daemon: PrivateDaemon, view: View) -> None:
        self._daemon, self._view = daemon, view
        self._queue: TaskQueue = daemon.connect()
        self._handles: dict[str, list[TaskHandle[Counted]]] = {}
        self._ended, self._ended_at = 0, time.monotonic()
        self.work: dict[str, list[str]] = {}

    def play(self, work: dict[str, list[str]]) -> None:
        """Let it all happen, until every task has ended."""
        self.work = work
        self._enqueue("whale")
        self._wait_until(lambda stats: self._part_started("whale", stats) >= _SMALL_COME_AT)
        self._enqueue("alice")
        self._enqueue("bob")
        self._wait_until(lambda stats: self._part_started("whale", stats) >= _KILL_AT)
        self._kill_a_worker()
        self._wait_until(lambda stats: self._part_started("whale", stats) >= _URGENT_AT)
        self._enqueue_urgent("carol")
        self._wait_until(lambda stats: _ended(stats) == self._enqueued)
        self._view.tell(f"all {self._enqueued:,} tasks have ended")

    def outcome(self) -> tuple[list[Ran], Mapping[str, int]]:
        """What became of each task, in the order they were enqueued, and the counters of the namespace."""
        tasks = []
        for user, handles in self._handles.items():
            for path, handle in zip(self.work[user], handles, strict=True):
                self._daemon.check()
                tasks.append(look_up(path, handle))
        return tasks, self._queue.stats().counters

    # Enqueuing

    def _enqueue(self, user: str) -> None:
        waiting = self._queue.stats().depth.get("default", 0)
        began = time.monotonic()
        self._handles[user] = self._queue.enqueue_many(count.using(user_id=user).task(path) for path in self.work[user])
        took = seconds(time.monotonic() - began)
        behind = f"; {waiting:,} tasks are waiting already" if waiting else ""
        self._view.tell(f"{user} enqueued {len(self.work[user]):,} tasks in {took}{behind}")

    def _enqueue_urgent(self, user: str) -> None:
        waiting = self._queue.stats().depth.get("default", 0)
        (path,) = self.work[user]
        handle = self._queue.enqueue(count.using(user_id=user, priority=Priority.CRITICAL).task(path))
        self._handles[user] = [handle]
        ran = look_up(path, handle)
        self._view.tell(
            f"{user} enqueued 1 CRITICAL task; {waiting:,} tasks were waiting, it waited {seconds(ran.wait)}"
        )

    # Watching

    @property
    def _enqueued(self) -> int:
        return sum(len(handles) for handles in self._handles.values())

    def _standings(self, stats: QueueStats) -> list[Standing]:
        waiting = {each.user_id: each.waiting for each in stats.users}
        return [Standing(user, len(handles), waiting.get(user, 0)) for user, handles in self._handles.items()]

    def _part_started(self, user: str, stats: QueueStats) -> float:
        standing = next(each for each in self._standings(stats) if each.user_id == user)
        return standing.started / standing.tasks

    def _look(self) -> QueueStats:
        self._daemon.check()
        stats = self._queue.stats()
        self._view.show(self._standings(stats))
        return stats

    def _wait_until(self, is_so: Callable[[QueueStats], bool], look_seconds: float = _LOOK_SECONDS) -> QueueStats:
        while not is_so(stats := self._look()):
            self._expect_progress(stats)
            time.sleep(look_seconds)
        return stats

    def _expect_progress(self, stats: QueueStats) -> None:
        now = time.monotonic()
        if _ended(stats) > self._ended:
            self._ended, self._ended_at = _ended(stats), now
        elif now - self._ended_at > _STALLED_SECONDS:
            left = self._enqueued - self._ended
            raise DaemonTrouble(f"no task has ended for {_STALLED_SECONDS:g} s, {left} are left")

    # Killing

    def _kill_a_worker(self) -> None:
        before = self._look()
        victim = max(before.workers, key=lambda worker: worker.held)
        known = {worker.worker_id for worker in before.workers}
        began = time.monotonic()
        os.kill(int(victim.info["pid"]), signal.SIGKILL)
        self._view.tell(f"kill -9 {victim.info['pid']}: a worker that held {victim.held} tasks")
        after = self._wait_until(lambda stats: victim.worker_id not in _ids(stats.workers), _CLOSE_LOOK_SECONDS)
        gone_for = time.monotonic() - began
        put_back = after.counters.get("reclaimed", 0) - before.counters.get("reclaimed", 0)
        self.kill = Kill(before.at.timestamp(), int(victim.info["threads"]), put_back)
        self._wait_until(lambda stats: bool(_ids(stats.workers) - known), _CLOSE_LOOK_SECONDS)
        self._view.tell(f"its {put_back} tasks were back in the queue after {seconds(gone_for)}, "
                        f"a new worker was ready after {seconds(time.monotonic() - began)}")  # fmt: skip


def _ids(workers: Sequence[WorkerInfo]) -> set[str]:
    return {worker.worker_id for worker in workers}


def _ended(stats: QueueStats) -> int:
    return sum(stats.counters.get(name, 0) for name in ("finished", "failed", "cancelled"))
