"""Every benchmark, one after the other: `python -m bench`, or `python -m bench throughput` for some."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NAMES = ("import_cost", "throughput", "record_layout")


def main() -> int:
    """Run the benchmarks that were named, all by default."""
    options = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(NAMES)}")
    chosen = options.parse_args().names or NAMES
    if unknown := set(chosen) - set(NAMES):
        options.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    worst = 0
    for name in chosen:
        print(f"== bench/{name}.py", flush=True)
        worst = max(worst, subprocess.run([sys.executable, str(HERE / f"{name}.py")], check=False).returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main())
