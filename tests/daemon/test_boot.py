"""Workers that cannot boot: said once, tried again after growing pauses, and nothing else suffers."""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from fairqued import Task, TaskQueue
from tests.daemon.conftest import StartDaemon
from tests.support.daemon import LATE, PROGRAM, run, title
from tests.support.process_tasks import add
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

COUNTED = "import pathlib\nwith pathlib.Path('tries').open('a') as file:\n    file.write('.')\n"

BROKEN = {
    "missing": (None, r"ModuleNotFoundError: No module named 'mine'"),
    "raising": ("def f():\n    return 1 / 0\nf()", "ZeroDivisionError: division by zero ({place}, line 5)"),
    "syntax": ("def (", "SyntaxError: invalid syntax"),
    "exiting": ("raise SystemExit(3)", "SystemExit: 3 ({place}, line 4)"),
    "crashing": ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "was sent SIGSEGV"),
    "vanishing": ("import os\nos._exit(7)", "ended with exit code 7"),
    "forking": ("import os, time\nif os.fork() == 0:\n    time.sleep(600)\nos._exit(7)", "ended with exit code 7"),
    "hanging": ("import time\ntime.sleep(600)", "it was not ready after worker.boot_timeout_seconds (1)"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_module_that_cannot_be_imported(make_daemon: StartDaemon, kind: str) -> None:
    source, reason = BROKEN[kind]
    daemon = make_daemon(imports=["mine"], worker={"boot_timeout_seconds": 1})
    module = daemon.directory / "mine.py"
    if source is not None:
        module.write_text(COUNTED + source)
    began = time.monotonic()
    daemon.start()
    daemon.wait_for_message("cannot boot")
    wait_until(lambda: daemon.status()["workers"][0]["phase"] == "waiting", LATE, "a pause")
    assert reason.format(place=module) in str(daemon.status()["workers"][0]["trouble"])
    if kind not in ("missing", "syntax"):
        wait_until(lambda: (daemon.directory / "tries").stat().st_size >= 3, LATE, "it is tried again")
        tries = (daemon.directory / "tries").stat().st_size
        assert tries <= 3 + time.monotonic() - began, "pauses grow"
    assert daemon.is_running
    assert len(daemon.messages("cannot boot")) == 1, "said once"
    assert "Traceback" not in daemon.log_file.read_text()


def test_a_boot_may_take_longer_than_a_worker_may_stand_still(make_daemon: StartDaemon) -> None:
    daemon = make_daemon(imports=["mine"], worker={"wedged_seconds": 1, "heartbeat_seconds": 0.3})
    (daemon.directory / "mine.py").write_text("import time\ntime.sleep(2.5)")
    daemon.start_and_wait()
    assert daemon.messages("is ready")
    assert not daemon.messages("no sign of life")


def test_a_module_that_is_mended_needs_no_restart(make_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = make_daemon(imports=["mine", "tests.support.process_tasks"]).start()
    daemon.wait_for_message("cannot boot")
    (daemon.directory / "mine.py").touch()
    daemon.wait_until_ready()
    assert queue.enqueue(add.task(1, 2)).result(LATE) == 3


def test_a_pool_that_cannot_boot_leaves_the_others_alone(make_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = make_daemon(
        pools=[
            {"name": "broken", "queues": ["broken"], "processes": 1, "handler": "json:JSONDecoder"},
            {"name": "main", "processes": 1},
        ]
    ).start()
    daemon.wait_for_message("pools[broken].handler: json:JSONDecoder is not a fairqued.worker.TaskHandler")
    assert queue.enqueue(add.task(1, 2)).result(LATE) == 3


@pytest.mark.parametrize(
    ("module", "reason"), [("no_such_module", "ModuleNotFoundError: No module named"), ("bad", "ValueError: no")]
)
def test_dev_ends_when_its_module_cannot_be_imported(short_path: Path, module: str, reason: str) -> None:
    (short_path / "bad.py").write_text("raise ValueError('no')")
    ended = run("dev", module, cwd=short_path)
    assert ended.returncode == 2
    assert f"fairqued: worker default/1 cannot boot: {reason}" in ended.stderr.splitlines()[-1]
    assert ended.stderr.count("cannot boot") == 1
    assert "Traceback" not in ended.stderr
    assert not [pid for pid in psutil.pids() if str(short_path) in title(pid)], "its Redis is gone too"


def test_dev_runs_the_tasks_of_a_module(short_path: Path) -> None:
    (short_path / "mine.py").write_text("from fairqued import task\n\n@task\ndef twice(n):\n    return 2 * n\n")
    with subprocess.Popen([*PROGRAM, "dev", "mine"], cwd=short_path, stderr=subprocess.PIPE, text=True) as daemon:
        assert daemon.stderr is not None
        export = daemon.stderr.readline()
        assert export == f"export FAIRQUED_REDIS_URL=fairqued://{short_path}/.fairqued\n"
        queue = TaskQueue(export.strip().partition("=")[2], user_id="alice", timeout_seconds=LATE)
        assert queue.enqueue(Task[Any](func="mine:twice", args=[21])).result(LATE) == 42
        queue.close()
        daemon.send_signal(signal.SIGINT)
        assert "fairqued has stopped" in daemon.stderr.read()
    assert daemon.returncode == 0


@contextmanager
def ended_at_last(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leave nothing behind when a test fails."""
    try:
        yield
    finally:
        process.send_signal(signal.SIGQUIT)


def test_dev_with_reload_takes_changed_code_and_outlives_mistakes(short_path: Path) -> None:
    source = short_path / "mine.py"
    source.write_text("from fairqued import task\n\n@task\ndef answer():\n    return 1\n")
    log = short_path / "log"
    with (
        log.open("wb") as stderr,
        subprocess.Popen([*PROGRAM, "dev", "mine", "--reload"], cwd=short_path, stderr=stderr) as daemon,
        ended_at_last(daemon),
    ):
        wait_until(lambda: "is ready" in log.read_text(), LATE, "it is up")
        queue = TaskQueue(f"fairqued://{short_path}/.fairqued", user_id="alice", timeout_seconds=LATE)
        assert queue.enqueue(Task[Any](func="mine:answer")).result(LATE) == 1
        source.write_text("from fairqued import task\n\n@task\ndef answer():\n    return 1 +\n")
        wait_until(lambda: "SyntaxError" in log.read_text(), LATE, "the mistake is told")
        assert queue.enqueue(Task[Any](func="mine:answer")).result(LATE) == 1
        source.write_text("from fairqued import task\n\n@task\ndef answer():\n    return 20 + 22\n")
        wait_until(lambda: "all workers are replaced" in log.read_text(), LATE, "the change is taken")
        assert queue.enqueue(Task[Any](func="mine:answer")).result(LATE) == 42
        queue.close()
        daemon.send_signal(signal.SIGINT)
        assert daemon.wait(LATE) == 0
