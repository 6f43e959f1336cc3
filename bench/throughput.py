#!/usr/bin/env python3
"""Measure how many no-op tasks a second go in and through, what they cost, and how fast an idle worker starts one.

Everything is private and real: a Redis server on a Unix socket, a daemon with its own state directory, and this process
as the client. They share this machine's cores.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import redis

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

NAMESPACE = "bench"
PATIENCE_SECONDS = 120.0
PAUSE_SECONDS = 0.005
LATENCY_TASKS = 300


@dataclass(frozen=True)
class Workload:
    """What is enqueued."""

    tasks: int
    users: int
    argument: str

    def shares(self) -> Iterator[tuple[str, int]]:
        """Each user and how many of the tasks are theirs."""
        for number in range(self.users):
            yield f"user-{number:06}", len(range(number, self.tasks, self.users))


@dataclass(frozen=True)
class Costs:
    """What a number of tasks took, of everybody involved."""

    what: str
    tasks: int
    seconds: float
    python_cpu: float
    redis_cpu: float
    script: float
    commands: int
    calls: int

    def cells(self) -> list[str]:
        """A line of the table: a rate, then costs a task."""
        each = 1e6 / self.tasks
        micros = (f"{cpu * each:.1f}" for cpu in (self.python_cpu, self.redis_cpu, self.script))
        return [self.what, f"{self.tasks / self.seconds:,.0f}", *micros,
                f"{self.commands / self.tasks:.1f}", f"{self.calls / self.tasks:.2f}"]  # fmt: skip


HEAD = ["", "tasks/s", "Python CPU µs", "Redis CPU µs", "script µs", "Redis commands", "EVALSHA"]


class Meter:
    """Reads the counters of Redis and the CPU time of the Python processes before and after something."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self.daemon: psutil.Process | None = None

    def measure(self, what: str, tasks: int, run: Callable[[], float | None]) -> Costs:
        """Run something that takes `tasks` through; it may return how many seconds of it count."""
        self._client.config_resetstat()
        redis_before, python_before = self._redis_cpu(), self._python_cpu()
        started = time.perf_counter()
        counted = run()
        seconds = counted or time.perf_counter() - started
        python_cpu, redis_cpu = self._python_cpu() - python_before, self._redis_cpu() - redis_before
        scripts = self._info("commandstats").get("cmdstat_evalsha", {"usec": 0, "calls": 0})
        commands = self._info("stats")["total_commands_processed"]
        return Costs(what, tasks, seconds, python_cpu, redis_cpu, scripts["usec"] / 1e6, commands, scripts["calls"])

    def memory(self) -> int:
        """Bytes that Redis uses for data."""
        info = self._info("memory")
        return int(info["used_memory"]) - int(info.get("mem_clients_normal", 0))

    def _info(self, section: str) -> dict[str, Any]:
        answer: dict[str, Any] = self._client.info(section)
        return answer

    def _redis_cpu(self) -> float:
        info = self._info("cpu")
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])

    def _python_cpu(self) -> float:
        own = resource.getrusage(resource.RUSAGE_SELF)
        seconds = own.ru_utime + own.ru_stime
        for process in [self.daemon, *self.daemon.children()] if self.daemon else []:
            times = process.cpu_times()
            seconds += times.user + times.system
        return seconds


class Bench:
    """One run of all measurements."""

    def __init__(self, url: str, state: Path, work: Workload, processes: int) -> None:
        from fairqued import TaskQueue  # noqa: PLC0415 - found on the path that was set above

        self._url, self._state, self._work, self._processes = url, state, work, processes
        self._queue = TaskQueue(url, namespace=NAMESPACE)
        self._client = redis.Redis.from_url(url)
        self._meter = Meter(self._client)
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> Iterator[Costs]:
        """Each measurement in turn."""
        few = Workload(max(1, self._work.tasks // 10), self._work.users, self._work.argument)
        yield self._meter.measure("enqueue, one by one", few.tasks, lambda: self._enqueue(few))
        self._client.flushdb()
        self._enqueue_many(Workload(1, 1, ""))  # scripts are loaded, buffers have grown
        before = self._meter.memory()
        yield self._meter.measure("enqueue_many", self._work.tasks, lambda: self._enqueue_many(self._work))
        self.bytes_a_task = (self._meter.memory() - before) / self._work.tasks
        with self._daemon(self._processes):
            yield self._meter.measure("run what waits", self._work.tasks + 1, lambda: self._wait(self._work.tasks + 1))
        self._client.flushdb()
        with self._daemon(self._processes):
            self._wait_for_workers()
            yield self._meter.measure("enqueue_many and run", self._work.tasks, self._through)
            self.latencies = [self._latency() for _ in range(LATENCY_TASKS)]

    def _enqueue(self, work: Workload) -> None:
        from bench.tasks import noop  # noqa: PLC0415

        for user, count in work.shares():
            for _ in range(count):
                self._queue.enqueue(noop.task(work.argument), user_id=user)

    def _enqueue_many(self, work: Workload) -> None:
        from bench.tasks import noop  # noqa: PLC0415

        for user, count in work.shares():
            self._queue.enqueue_many((noop.task(work.argument) for _ in range(count)), user_id=user)

    def _through(self) -> None:
        self._enqueue_many(self._work)
        self._wait(self._work.tasks)

    def _wait(self, count: int) -> float:
        """Wait until so many tasks have finished; the seconds since the first of them did."""
        self._until(lambda: self._finished() > 0)
        began = time.perf_counter()
        self._until(lambda: self._finished() >= count)
        return time.perf_counter() - began

    def _until(self, holds: Callable[[], bool]) -> None:
        assert self._process is not None
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            if self._process.poll() is not None:
                raise SystemExit(f"the daemon ended with exit code {self._process.returncode}")
            if time.monotonic() > deadline:
                raise SystemExit(f"only {self._finished()} tasks finished within {PATIENCE_SECONDS:g} s")
            time.sleep(PAUSE_SECONDS)

    def _finished(self) -> int:
        return int(self._client.hget(f"{{{NAMESPACE}}}:counters", "finished") or 0)

    def _wait_for_workers(self) -> None:
        self._until(lambda: self._client.zcard(f"{{{NAMESPACE}}}:workers") == self._processes)

    def _latency(self) -> float:
        from bench.tasks import start_time  # noqa: PLC0415

        time.sleep(random.uniform(0.005, 0.015))  # the workers fall idle
        before = time.time()
        handle = self._queue.enqueue(start_time.task(), user_id="somebody")
        time.sleep(0.004)  # looking for the result would be in the way
        return handle.result(timeout_seconds=10) - before

    @contextmanager
    def _daemon(self, processes: int) -> Iterator[None]:
        settings = {
            "FAIRQUED_REDIS_URL": self._url,
            "FAIRQUED_NAMESPACE": NAMESPACE,
            "FAIRQUED_IMPORTS": "bench.tasks",
            "FAIRQUED__PYTHON_PATH": f"['{ROOT}']",
            "FAIRQUED__STATE_DIR": str(self._state),
            "FAIRQUED__POOLS__0__PROCESSES": str(processes),
            "FAIRQUED__METRICS__LISTEN": "null",
            "FAIRQUED__LOGGING__LEVEL": "warning",
            "PYTHONPATH": str(ROOT),
        }
        clean = {name: value for name, value in os.environ.items() if not name.startswith("FAIRQUED")}
        command = [sys.executable, "-m", "fairqued.daemon.main"]
        with subprocess.Popen(command, env=clean | settings, stdin=subprocess.DEVNULL) as process:
            self._process, self._meter.daemon = process, psutil.Process(process.pid)
            try:
                yield
            finally:
                self._process = self._meter.daemon = None
                process.terminate()
                process.wait(60)


@contextmanager
def server(binary: str, folder: Path, *, appendonly: bool) -> Iterator[str]:
    """A private Redis; its URL."""
    socket = folder / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", "", "--loglevel", "warning",
               "--appendonly", "yes" if appendonly else "no"]  # fmt: skip
    with subprocess.Popen([binary, *options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            while not socket.exists():
                if process.poll() is not None:
                    raise SystemExit(f"{binary} ended with status {process.returncode}")
                time.sleep(0.01)
            yield f"unix://{socket}"
        finally:
            process.terminate()
            process.wait(20)


def aligned(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        first, *rest = (cell.ljust(width) if at == 0 else cell.rjust(width)
                        for at, (cell, width) in enumerate(zip(line, widths, strict=True)))  # fmt: skip
        yield "  ".join([first, *rest])


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that so many percent of the others do not exceed."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def parse_arguments() -> argparse.Namespace:
    """Read and check the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=30_000, metavar="N", help="how many tasks (default %(default)s)")
    parser.add_argument("--users", type=int, default=10, metavar="N", help="whose they are (default %(default)s)")
    parser.add_argument("--argument", type=int, default=100, metavar="BYTES", help="of each task (default %(default)s)")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="worker processes (default %(default)s)")
    parser.add_argument("--server", metavar="PATH", help="the server to run (default: the one that embedded would run)")
    parser.add_argument("--appendonly", action="store_true", help="let it keep an append-only file, synced each second")
    options = parser.parse_args()
    if (
        min(options.tasks, options.users, options.processes) < 1
        or options.argument < 0
        or options.users > options.tasks
    ):
        parser.error("--tasks, --users and --processes must be at least 1, and --users at most --tasks")
    if options.server and not shutil.which(options.server):
        parser.error(f"--server {options.server}: no such program")
    return options


def main() -> int:
    """Run everything once and print one table."""
    options = parse_arguments()
    from fairqued import __version__  # noqa: PLC0415
    from fairqued.daemon.embedded import find_server  # noqa: PLC0415

    work = Workload(options.tasks, options.users, "x" * options.argument)
    folder = Path(tempfile.mkdtemp(prefix="fq-", dir="/tmp"))
    try:
        with server(str(find_server(options.server)), folder, appendonly=options.appendonly) as url:
            version = redis.Redis.from_url(url).info("server")["redis_version"]
            print(
                f"fairqued {__version__}, Redis {version}, Python {platform.python_version()}, {os.cpu_count()} cores: "
                f"{work.tasks:,} no-op tasks of {work.users:,} users, {options.argument}-byte argument, "
                f"{options.processes} worker processes\n"
            )
            bench = Bench(url, folder / "state", work, options.processes)
            costs = list(bench.run())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(*aligned([HEAD, *(each.cells() for each in costs)]), sep="\n")
    print(
        "\nAll but the first are per task. Python CPU is the client's and the daemon's; script is the time in EVALSHA."
    )
    print(f"A waiting task takes {bench.bytes_a_task:.0f} bytes of Redis memory.")
    late = [seconds * 1000 for seconds in bench.latencies]
    print(f"From enqueue to start, idle: p50 {percentile(late, 50):.2f} ms, p99 {percentile(late, 99):.2f} ms, "
          f"worst {max(late):.2f} ms of {len(late)}.")  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
