"""The tasks that the measurements run."""

from __future__ import annotations

import time

from fairqued import task


@task
def noop(text: str) -> None:
    """Do nothing."""


@task
def start_time() -> float:
    """When it was started, by this host's clock."""
    return time.time()
