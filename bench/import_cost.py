"""What `import fairqued` costs beyond `import redis, orjson`: the median of fresh interpreters.

python bench/import_cost.py [--runs 21] [--modules]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator

GOAL_MS = 25.0
_PROGRAM = """
import sys, time
import redis, orjson
before = set(sys.modules)
start = time.perf_counter()
import fairqued
print(time.perf_counter() - start)
print(*sorted(set(sys.modules) - before))
"""


def run(bytecode: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a fresh interpreter that keeps its bytecode in a folder, as an installed package would."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = bytecode
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=True)


def measure(bytecode: str) -> tuple[float, list[str]]:
    """Import in one fresh interpreter: milliseconds, and the modules that came in."""
    seconds, modules = run(bytecode, "-c", _PROGRAM).stdout.splitlines()
    return float(seconds) * 1000, modules.split()


def by_module(bytecode: str) -> Iterator[tuple[int, str]]:
    """Each module of fairqued and what its own lines cost, in microseconds."""
    answer = run(bytecode, "-X", "importtime", "-c", "import redis, orjson; import fairqued")
    for line in answer.stderr.splitlines():
        own, _, name = line.removeprefix("import time:").split("|")
        if name.strip().startswith("fairqued"):
            yield int(own), name.strip()


def main() -> None:
    """Print the cost against the goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--modules", action="store_true", help="what each module of fairqued costs by itself")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as bytecode:
        measure(bytecode)
        times, modules = zip(*(measure(bytecode) for _ in range(options.runs)), strict=True)
        rows = sorted(by_module(bytecode), reverse=True) if options.modules else []
    cost = statistics.median(times)
    print(f"import fairqued, beyond redis and orjson: {cost:.1f} ms (goal: at most {GOAL_MS:g} ms)")
    print(f"best {min(times):.1f}, worst {max(times):.1f} ms of {options.runs} interpreters; {len(modules[0])} modules")
    for own, name in rows:
        print(f"{own / 1000:8.2f} ms  {name}")


if __name__ == "__main__":
    main()
