"""What deaths of processes mean for the tasks that ran there, told in the log: who is suspect, and who is given up."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from fairqued.errors import FairquedError
from fairqued.record import Record
from fairqued.state import Reason, TaskState
from fairqued.store import Store

logger = logging.getLogger("fairqued.scheduler")

MOST_TOLD = 20


def tell(store: Store, task_ids: Iterable[str]) -> None:
    """Tell what became of these tasks. Best effort: that nothing is lost does not depend on it."""
    for task_id in task_ids:
        try:
            record = store.read(task_id)
        except FairquedError:
            return
        if record is not None:
            _tell(record)


def _tell(record: Record) -> None:
    about = {"task": record.task_id, "user": record.user_id}
    if record.state is TaskState.FAILED and record.reason is Reason.POISONED:
        why = record.read_error().get("message", "")
        logger.error(
            "task %s of %s is FAILED as poisoned after %d crashes: %s",
            record.task_id, record.user_id, record.crashes, why, extra=about,
        )  # fmt: skip
    elif record.crashes:
        logger.warning(
            "task %s of %s killed the process in which it ran alone, %d times by now",
            record.task_id, record.user_id, record.crashes, extra=about,
        )  # fmt: skip
    elif record.is_hidden:
        logger.warning(
            "task %s of %s was in %d processes when they died: it waits in %s, to run alone",
            record.task_id, record.user_id, record.suspicion, record.waits_in, extra=about,
        )  # fmt: skip
