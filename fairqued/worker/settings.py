"""How a worker works."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fairqued.lease import DEFAULT_HEARTBEAT_SECONDS, DEFAULT_LEASE_SECONDS
from fairqued.tasks import DEFAULT_QUEUE
from fairqued.worker.vitals import Vitals


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """How a worker works. Times are seconds."""

    queues: Sequence[str] = (DEFAULT_QUEUE,)
    threads: int = 8
    lease_seconds: float = DEFAULT_LEASE_SECONDS
    heartbeat_seconds: float = DEFAULT_HEARTBEAT_SECONDS
    unknown_function_seconds: float = 3600
    worker_id: str | None = None
    """Given by a master, which then puts back what is left; a worker of one's own makes one and puts back itself."""
    pool: str = ""
    vitals: Vitals | None = None
    """The memory shared with the master, if there is one."""
    max_tasks: int = 0
    """Wish for a replacement after so many tasks; 0: never."""
    ends_when_empty: bool = False
    """End once nothing runs and nothing more is ready."""
    hard_grace_seconds: float = 10.0
    """How long after its time was over, or its cancel has come, a task may take to end before it counts as wedged."""
