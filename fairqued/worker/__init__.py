"""The worker: runs tasks. `Worker(queue, handler).run()` works in one's own process too."""

from fairqued.worker.handler import FunctionTaskHandler, Result, TaskHandler
from fairqued.worker.settings import WorkerSettings
from fairqued.worker.worker import Worker

__all__ = ["FunctionTaskHandler", "Result", "TaskHandler", "Worker", "WorkerSettings"]
