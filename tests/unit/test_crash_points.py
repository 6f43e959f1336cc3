import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fairqued import crash_points
from fairqued.crash_points import CRASH_POINTS, VARIABLE
from fairqued.errors import ConfigError

ROOT = Path(crash_points.__file__).parent

FORK_AND_PASS = """
import os
from fairqued.crash_points import crash_point
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        crash_point("in_task")
        crash_point("after_pop")
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def run(code: str, asked: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, VARIABLE: asked}
    return subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("asked", "ends"),
    [
        ("after_pop", [-signal.SIGKILL, 0, 0]),
        ("after_pop@2", [0, -signal.SIGKILL, 0]),
        ("in_task@3", [0, 0, -signal.SIGKILL]),
        ("after_finish", [0, 0, 0]),
        ("", [0, 0, 0]),
    ],
)
def test_one_process_of_all_dies_at_its_point(asked: str, ends: list[int]) -> None:
    assert run(FORK_AND_PASS, asked).stdout.split() == [str(end) for end in ends]


def test_without_the_variable_there_is_nothing_to_pay_for() -> None:
    assert crash_points.crash_point is crash_points._do_nothing


@pytest.mark.parametrize("asked", ["nowhere", "after_pop@0", "after_pop@", "after_pop@x", "@1"])
def test_a_point_that_is_not_there_is_refused(asked: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"${VARIABLE}: ")):
        crash_points.parse(asked)


def test_a_daemon_does_not_start_with_a_point_that_is_not_there() -> None:
    refused = run("from fairqued.daemon.main import main; main()", "nowhere")
    assert refused.returncode == 1
    assert "there is no crash point 'nowhere'; there are booting, registered" in refused.stderr


def test_each_point_stands_in_the_code_once() -> None:
    text = "".join(path.read_text() for path in ROOT.rglob("*.py"))
    assert sorted(re.findall(r"crash_point\(\"(\w+)\"\)", text)) == sorted(CRASH_POINTS)
