"""The demo's guard: a process that cleans up after a demo that was killed. Run as a file, without fairqued.

Standard input is a pipe from the demo: one line with the process id of its daemon, and something more when the demo has
cleaned up by itself. An end of the pipe before that means that the demo is dead.
"""

import os
import shutil
import signal
import sys
import time
from contextlib import suppress

_STOP_SECONDS = 10.0
_PAUSE_SECONDS = 0.02


def main(folder: str) -> None:
    """Wait for the end of the demo. `folder` is removed after a bad end; empty: nothing is removed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    daemon = sys.stdin.buffer.readline()
    if sys.stdin.buffer.read(1):
        return
    if daemon.strip():
        end_session(int(daemon))
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


def end_session(leader: int) -> None:
    """End a process in good order, and then whatever is left of the session that it leads."""
    deadline = time.monotonic() + _STOP_SECONDS
    with suppress(ProcessLookupError):
        os.kill(leader, signal.SIGTERM)
        while time.monotonic() < deadline:
            os.kill(leader, 0)
            time.sleep(_PAUSE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1])
