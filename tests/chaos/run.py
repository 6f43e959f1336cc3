"""`make chaos`: kill, freeze and cut off what can be, for minutes, and prove that nothing was lost or done twice."""

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.support import chaos


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)  # noqa: T201


def main() -> int:
    """Run it, print what happens and the verdict; 1 if anything is not as it should be."""
    asked = _arguments()
    say(f"chaos: --seconds {asked.seconds:g} --tasks {asked.tasks} --seed {asked.seed}")
    folder = Path(tempfile.mkdtemp(prefix="fq-chaos-", dir="/tmp"))
    report = chaos.run(folder, seconds=asked.seconds, tasks=asked.tasks, seed=asked.seed, say=say)
    say("\n".join(report.lines()))
    if report.problems:
        say(f"chaos: FAILED; the logs are in {folder}")
        return 1
    shutil.rmtree(folder)
    say("chaos: every accepted task was completed exactly once")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.run", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long to strike [default: %(default)s]")
    parser.add_argument("--tasks", type=int, default=20_000, help="how many to enqueue [default: %(default)s]")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000), help="[default: any]")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
