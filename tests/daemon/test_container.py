"""The daemon as process 1 of a container whose files are read-only, all but the one folder of its state."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from fairqued import TaskQueue
from tests.support.daemon import LATE, PROGRAM, Daemon
from tests.support.orphan_tasks import leave_behind
from tests.support.servers import RedisServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

ISOLATED = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc")
ALL_BUT_ONE_READ_ONLY = 'mount --bind "$0" "$0"; mount -o remount,bind,ro /; exec "$@"'


def why_not() -> str:
    if not shutil.which("unshare"):
        return "unshare is not installed (Debian: apt-get install util-linux)"
    tried = subprocess.run([*ISOLATED, "true"], capture_output=True, text=True, check=False)
    return f"this machine allows no namespaces of one's own: {tried.stderr.strip()}" if tried.returncode else ""


@pytest.fixture
def daemon(redis_server: RedisServer, namespace: str) -> Iterator[Daemon]:
    if reason := why_not():
        pytest.skip(reason)
    daemon = Daemon(redis_server.url, namespace, {"imports": ["tests.support.orphan_tasks"]})
    daemon.program = (*ISOLATED, "sh", "-ec", ALL_BUT_ONE_READ_ONLY, str(daemon.directory), *PROGRAM)
    yield daemon
    daemon.remove()


def names_of_children(process: psutil.Process) -> list[str]:
    """Those that do not end just now."""
    names = []
    for child in process.children():
        with suppress(psutil.NoSuchProcess):
            names.append(child.name())
    return names


def test_it_is_process_1(daemon: Daemon, queue: TaskQueue) -> None:
    daemon.start_and_wait()
    assert daemon.status()["pid"] == 1
    (master,) = psutil.Process(daemon.pid).children()
    orphan = queue.enqueue(leave_behind.task("gate")).result(LATE)
    assert orphan in names_of_children(master), "it has become a child of process 1"
    daemon.open_gate("gate")
    wait_until(lambda: orphan not in names_of_children(master), LATE, "no zombie is left")
    master.terminate()
    assert daemon.wait() == 0, daemon.last_words()
    assert daemon.messages("fairqued has stopped")
