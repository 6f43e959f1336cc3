"""The life of a forked worker process, from the fork to its exit code."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import setproctitle

from fairqued.crash_points import crash_point
from fairqued.daemon import exits, log, signals
from fairqued.daemon.config import Config, PoolSettings
from fairqued.daemon.identity import lock_worker_file
from fairqued.daemon.stacks import all_stacks
from fairqued.errors import WorkerGone
from fairqued.queue import TaskQueue, use_as_default
from fairqued.worker import FunctionTaskHandler, TaskHandler, Worker, WorkerSettings
from fairqued.worker.vitals import Vitals
from fairqued.worker.worker import EXIT_FENCED

logger = logging.getLogger("fairqued.worker")

READY = b"ready"
_MOST_TOLD_BYTES = 4096
_OF_WORKERS = frozenset({signal.SIGTERM, signal.SIGUSR2})
"""The signals that have a handler in a worker."""
_NO_PLACE = (str(Path(importlib.__file__).parent), str(Path(__file__).parents[1]), "<frozen ")
"""Code that only carries out an import: its lines say nothing about what is wrong."""


@dataclass(frozen=True, kw_only=True)
class Birth:
    """What a worker gets from its master."""

    worker_id: str
    title: str
    pool: PoolSettings
    config: Config
    redis_url: str
    lock_file: Path
    vitals: Vitals
    ends_when_empty: bool
    """Whether it ends once its queues are empty."""
    boot_fd: int
    """Where it says `ready`, or why it cannot be."""
    master_fd: int
    """Reaches its end when the master dies."""


def live(birth: Birth) -> int:
    """Be a worker until told to stop. Called in the forked child with all signals blocked; returns the exit code."""
    worker: Worker | None = None

    def stop(_number: int, _frame: object) -> None:
        if worker is None:
            os._exit(exits.WORKER_STOPPED)
        worker.stop(birth.config.worker.drain_seconds)

    _arm(stop)
    _drop_descriptors(keep={0, 1, 2, birth.boot_fd, birth.master_fd})
    threading.Thread(target=_end_with_master, args=(birth.master_fd,), name="orphan", daemon=True).start()
    setproctitle.setproctitle(f"fairqued: worker {birth.title}")
    lock_worker_file(birth.lock_file)
    log.be_worker(birth.worker_id)
    try:
        worker = _boot(birth)
    except BaseException as error:
        _say(birth.boot_fd, told(error).encode(errors="backslashreplace"))
        logger.debug("boot failed", exc_info=True)
        return exits.WORKER_BOOT_FAILED
    _say(birth.boot_fd, READY)
    try:
        worker.run()
    except WorkerGone:
        return EXIT_FENCED
    return exits.WORKER_STOPPED


def _boot(birth: Birth) -> Worker:
    """A registered worker. Raises whatever user modules raise, and QueueUnavailable."""
    crash_point("booting")
    config = birth.config
    add_python_path(config.python_path)
    queue = TaskQueue(
        birth.redis_url, namespace=config.namespace, timeout_seconds=config.redis.timeout_seconds,
        signing_keys_file=config.security.signing_keys_file,
    )  # fmt: skip
    use_as_default(queue)
    settings = WorkerSettings(
        queues=birth.pool.queue_names,
        threads=birth.pool.threads,
        lease_seconds=config.worker.lease_seconds,
        heartbeat_seconds=config.worker.heartbeat_seconds,
        unknown_function_seconds=config.worker.unknown_function_seconds,
        worker_id=birth.worker_id,
        pool=birth.pool.name,
        vitals=birth.vitals,
        max_tasks=birth.pool.max_tasks,
        ends_when_empty=birth.ends_when_empty,
    )
    worker = Worker(queue, make_handler(config, birth.pool), settings)
    worker.register()
    crash_point("registered")
    return worker


def add_python_path(entries: Sequence[str]) -> None:
    """Put the folders of `python_path` before everything else on sys.path."""
    for entry in reversed(entries):
        place = str(Path(entry).resolve())
        if place not in sys.path:
            sys.path.insert(0, place)


def make_handler(config: Config, pool: PoolSettings) -> TaskHandler:
    """The handler of a pool. Raises what the import of its modules raises, and TypeError if it is no TaskHandler."""
    if pool.handler is None:
        return FunctionTaskHandler(config.imports)
    module, _, name = pool.handler.partition(":")
    for each in config.imports:
        importlib.import_module(each)
    handler = getattr(importlib.import_module(module), name)()
    if not isinstance(handler, TaskHandler):
        raise TypeError(f"pools[{pool.name}].handler: {pool.handler} is not a fairqued.worker.TaskHandler")
    return handler


def told(error: BaseException) -> str:
    """An error in one line, with its place in user code."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f" ({each.filename}, line {each.lineno})" for each in frames if not each.filename.startswith(_NO_PLACE)]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' if text else ''}{text}{places[-1] if places else ''}"


def _arm(stop: signal._HANDLER) -> None:
    """Own handlers first, then let signals in. The terminal's signals are the master's business.

    A SIGTERM may be waiting already: it must never be ignored, not even for a moment, or it is lost.
    """
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGQUIT, *signals.OPERATING):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, _dump)
    os.register_at_fork(
        before=partial(signal.pthread_sigmask, signal.SIG_BLOCK, _OF_WORKERS),
        after_in_parent=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, _OF_WORKERS),
        after_in_child=_be_no_worker,
    )
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.ALL)


def _be_no_worker() -> None:
    """In a process that a task forked: whoever made it may end it, from the first moment on."""
    for number in _OF_WORKERS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _OF_WORKERS)


def _dump(_number: int, _frame: object) -> None:
    logger.info("stacks of this worker:\n%s", all_stacks())


def _drop_descriptors(keep: set[int]) -> None:
    """Detach inherited descriptors, but keep their numbers taken: objects that own them must not close new ones."""
    null = os.open(os.devnull, os.O_RDWR)
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 - numbers, not paths
        if int(name) not in {*keep, null}:
            with suppress(OSError):
                os.dup2(null, int(name), inheritable=False)


def _end_with_master(master_fd: int) -> None:
    """Wait for the end of a pipe that the master alone holds open, and end."""
    os.read(master_fd, 1)
    os._exit(exits.WORKER_ORPHANED)


def _say(fd: int, message: bytes) -> None:
    try:
        os.write(fd, message[:_MOST_TOLD_BYTES])
    finally:
        os.close(fd)
