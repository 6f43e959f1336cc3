"""The life of a forked worker process, from the fork to its exit code."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import setproctitle

from fairqued.daemon import exits, log, signals
from fairqued.daemon.config import Config, PoolSettings
from fairqued.daemon.identity import lock_worker_file
from fairqued.errors import WorkerGone
from fairqued.queue import TaskQueue
from fairqued.worker import FunctionTaskHandler, TaskHandler, Worker, WorkerSettings
from fairqued.worker.worker import EXIT_FENCED

logger = logging.getLogger("fairqued.worker")

READY = b"ready"


@dataclass(frozen=True, kw_only=True)
class Birth:
    """What a worker gets from its master."""

    worker_id: str
    title: str
    pool: PoolSettings
    config: Config
    redis_url: str
    lock_file: Path
    boot_fd: int
    """Where it says `ready`, or why it cannot be."""
    master_fd: int
    """Reaches its end when the master dies."""


def live(birth: Birth) -> int:
    """Be a worker until told to stop. Called in the forked child with all signals blocked; returns the exit code."""
    worker: Worker | None = None

    def on_term(number: int, frame: object) -> None:
        if worker is None:
            os._exit(exits.OK)
        worker.stop(birth.config.worker.drain_seconds)

    _arm(on_term)
    _drop_descriptors(keep={0, 1, 2, birth.boot_fd, birth.master_fd})
    setproctitle.setproctitle(f"fairqued: worker {birth.title}")
    lock_worker_file(birth.lock_file)
    log.add_worker(birth.worker_id)
    try:
        worker = _boot(birth)
        worker.register()
    except BaseException as error:  # noqa: BLE001 - user modules may raise anything
        _say(birth.boot_fd, f"{type(error).__name__}: {error}".encode(errors="backslashreplace"))
        logger.debug("boot failed", exc_info=True)
        return exits.WORKER_BOOT_FAILED
    _say(birth.boot_fd, READY)
    try:
        left = worker.run()
    except WorkerGone:
        return EXIT_FENCED
    if left:
        logger.warning("%d tasks did not end in time and are handed back", left)
    return exits.OK


def _boot(birth: Birth) -> Worker:
    config = birth.config
    add_python_path(config.python_path)
    queue = TaskQueue(birth.redis_url, namespace=config.namespace, timeout_seconds=config.redis.timeout_seconds)
    settings = WorkerSettings(
        queues=birth.pool.queue_names,
        threads=birth.pool.threads,
        lease_seconds=config.worker.lease_seconds,
        heartbeat_seconds=config.worker.heartbeat_seconds,
        unknown_function_seconds=config.worker.unknown_function_seconds,
        worker_id=birth.worker_id,
        pool=birth.pool.name,
        master_fd=birth.master_fd,
    )
    return Worker(queue, make_handler(config, birth.pool), settings)


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


def _arm(on_term: signal._HANDLER) -> None:
    """Own handlers first, then let signals in. The terminal's signals are the master's business."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, on_term)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.ALL)


def _drop_descriptors(keep: set[int]) -> None:
    """Detach inherited descriptors, but keep their numbers taken: objects that own them must not close new ones."""
    null = os.open(os.devnull, os.O_RDWR)
    for name in os.listdir("/dev/fd"):
        fd = int(name)
        if fd not in keep and fd != null:
            try:
                os.dup2(null, fd, inheritable=False)
            except OSError:
                pass  # the descriptor of the listing itself, closed by now


def _say(fd: int, message: bytes) -> None:
    try:
        os.write(fd, message[:4096])
    finally:
        os.close(fd)
