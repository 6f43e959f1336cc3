"""A task that leaves a process behind."""

import os
import subprocess
from pathlib import Path

from fairqued import task
from tests.support.process_tasks import DIRECTORY_VARIABLE


@task
def leave_behind(gate: str) -> str:
    """Start a process whose parent ends at once, and which ends when the test opens the gate: its name."""
    waits = '(while [ ! -e "$0" ]; do sleep 0.02; done) &'
    subprocess.run(["sh", "-c", waits, str(Path(os.environ[DIRECTORY_VARIABLE]) / gate)], check=True)
    return "sh"
