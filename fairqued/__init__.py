"""fairqued: a task queue in which no user can starve another, and no accepted task is ever lost."""

from fairqued.context import CurrentTask, as_user, current_task
from fairqued.errors import (
    ConfigError,
    CorruptRecord,
    DuplicateTask,
    EnqueueIncomplete,
    FairquedError,
    InvalidResult,
    InvalidTask,
    NotAllowed,
    PayloadTooLarge,
    QueueFull,
    QueueUnavailable,
    ResultExpired,
    ResultTimeout,
    RetryTask,
    TaskCancelled,
    TaskFailed,
    TaskInterrupted,
    TaskNotFound,
    TaskTimeout,
)
from fairqued.info import QueueStats, TaskInfo
from fairqued.lease import QueueLease, StartedTask
from fairqued.queue import TaskHandle, TaskQueue, default_queue
from fairqued.state import Priority, Reason, TaskState
from fairqued.tasks import Task, TaskFunction, TaskOptions, task
from fairqued.version import __version__

__all__ = [
    "ConfigError",
    "CorruptRecord",
    "CurrentTask",
    "DuplicateTask",
    "EnqueueIncomplete",
    "FairquedError",
    "InvalidResult",
    "InvalidTask",
    "NotAllowed",
    "PayloadTooLarge",
    "Priority",
    "QueueFull",
    "QueueLease",
    "QueueStats",
    "QueueUnavailable",
    "Reason",
    "ResultExpired",
    "ResultTimeout",
    "RetryTask",
    "StartedTask",
    "Task",
    "TaskCancelled",
    "TaskFailed",
    "TaskFunction",
    "TaskHandle",
    "TaskInfo",
    "TaskInterrupted",
    "TaskNotFound",
    "TaskOptions",
    "TaskQueue",
    "TaskState",
    "TaskTimeout",
    "__version__",
    "as_user",
    "current_task",
    "default_queue",
    "task",
]
