"""Forking workers: with no thread of the master in the middle of anything, and with all signals blocked."""

from __future__ import annotations

import logging
import os
import signal

from fairqued.crash_points import crash_point
from fairqued.daemon import child as child_process
from fairqued.daemon import exits, log, signals
from fairqued.daemon.child import Birth
from fairqued.daemon.config import Config
from fairqued.daemon.crew import Child, Post
from fairqued.daemon.gate import ForkGate
from fairqued.daemon.identity import StateDirectory
from fairqued.daemon.pulse import Pulse
from fairqued.worker.vitals import Vitals

logger = logging.getLogger("fairqued.master")

_FORK_WAIT_SECONDS = 2.0
_MOST_TOLD_BYTES = 4096


class Busy(Exception):
    """A thread of the master was in the middle of something for too long, so nothing can be forked just now."""


class Nursery:
    """Where a master's workers come from."""

    def __init__(self, state: StateDirectory, gate: ForkGate, redis_url: str) -> None:
        self._state, self._gate, self._redis_url = state, gate, redis_url
        self._life_read, self._life_write = os.pipe()

    def fork(self, post: Post, config: Config, generation: int) -> Child:
        """A worker for a post. Raises Busy, OSError."""
        with self._gate.fork(_FORK_WAIT_SECONDS) as is_quiet:
            if not is_quiet:
                raise Busy
            return self._fork(post, config, generation)

    def _fork(self, post: Post, config: Config, generation: int) -> Child:
        worker_id = self._state.new_worker_id()
        self._state.announce(worker_id)
        try:
            return self._bear(worker_id, post, config, generation)
        except OSError:
            self._state.forget(worker_id)
            raise

    def _bear(self, worker_id: str, post: Post, config: Config, generation: int) -> Child:
        vitals = Vitals()
        boot_read, boot_write = os.pipe()
        os.set_blocking(boot_read, False)  # the other end may outlive the worker, in a process that it started
        try:
            pid = _fork_into(
                Birth(
                    worker_id=worker_id, title=post.title, pool=post.pool, config=config, vitals=vitals,
                    ends_when_empty=post.is_hidden, redis_url=self._redis_url,
                    lock_file=self._state.worker_file(worker_id), boot_fd=boot_write, master_fd=self._life_read,
                )
            )  # fmt: skip
        except OSError:
            os.close(boot_read)
            raise
        finally:
            os.close(boot_write)
        return Child(
            pid, worker_id, boot_read, title=post.title, pool=post.pool, config=config, generation=generation,
            vitals=vitals, pulse=Pulse(pid, vitals, post.pool, config),
        )  # fmt: skip


def hear_boot(child: Child) -> bytes:
    """What a worker says when it is ready, or why it cannot be; nothing if it died without a word."""
    boot_fd, child.boot_fd = child.boot_fd, -1
    try:
        return os.read(boot_fd, _MOST_TOLD_BYTES)
    except BlockingIOError:
        return b""
    finally:
        os.close(boot_fd)


def _fork_into(birth: Birth) -> int:
    """Fork with all signals blocked; the child never returns from here."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals.ALL)
    crash_point("before_fork")
    try:
        pid = os.fork()
        if pid == 0:
            _be_child(birth)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    crash_point("after_fork")
    return pid


def _be_child(birth: Birth) -> None:
    code = exits.FAILED
    try:
        code = child_process.live(birth)
    except BaseException:
        logger.exception("worker %s broke", birth.title)
    finally:
        try:
            log.flush()
        finally:
            os._exit(code)
