"""The nursery of the hammer: one process without threads that forks workers, so that a new one takes milliseconds.

It has imported everything, obeys lines of JSON on its standard input, and kills its children when that closes.
"""

import json
import os
import signal
import subprocess
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from tests.support.hammer_worker import EXIT_BROKEN, HammerWorker, WorkerConfig

_WAIT_SECONDS = 20


def _fork(config: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = EXIT_BROKEN
    try:
        code = HammerWorker(WorkerConfig(**config)).run()
    except BaseException:  # noqa: BLE001 - whatever it was, it is shown and ends the process
        traceback.print_exc()
    os._exit(code)


def _wait(pid: int, living: set[int], flags: int) -> int | None:
    found, status = os.waitpid(pid, flags)
    if not found:
        return None
    living.discard(pid)
    return os.waitstatus_to_exitcode(status)


def main() -> None:
    """Obey: `fork` a worker, `poll` or `wait` for one; each is answered by a line of JSON."""
    living: set[int] = set()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until a worker's handler stands
    for line in sys.stdin:
        what, about = json.loads(line)
        if what == "fork":
            answer: int | None = _fork(about)
            living.add(answer or 0)
        else:
            answer = _wait(about, living, 0 if what == "wait" else os.WNOHANG)
        print(json.dumps(answer), flush=True)  # noqa: T201 - the answer
    for pid in tuple(living):
        os.kill(pid, signal.SIGKILL)
        _wait(pid, living, 0)


class Nursery:
    """The parent of all workers, from the test's side."""

    def __init__(self, errors: Path) -> None:
        self._errors = errors.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.hammer_nursery"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            text=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip

    def fork(self, config: WorkerConfig) -> int:
        """Start a worker and return its pid."""
        pid = self._ask("fork", asdict(config))
        assert pid is not None
        return pid

    def poll(self, pid: int) -> int | None:
        """The exit code of a worker that ended."""
        return self._ask("poll", pid)

    def wait(self, pid: int) -> int:
        """The exit code of a worker that was killed."""
        code = self._ask("wait", pid)
        assert code is not None
        return code

    def close(self) -> None:
        """Kill what is left, and end."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(_WAIT_SECONDS)
        self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, what: str, about: Any) -> int | None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([what, about]) + "\n")
        self._process.stdin.flush()
        answer: int | None = json.loads(self._process.stdout.readline())
        return answer


if __name__ == "__main__":
    main()
