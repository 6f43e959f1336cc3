"""The master: forks workers, keeps them alive, puts back what the dead ones held, and ends in good order."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import setproctitle

from fairqued.connection import Connection
from fairqued.daemon import child as child_process
from fairqued.daemon import exits, log, signals
from fairqued.daemon.child import Birth
from fairqued.daemon.config import Config
from fairqued.daemon.crew import Child, Crew, Phase, Post
from fairqued.daemon.embedded import EmbeddedRedis
from fairqued.daemon.exits import Failure
from fairqued.daemon.gate import ForkGate
from fairqued.daemon.identity import StateDirectory
from fairqued.errors import FairquedError
from fairqued.scheduler.scheduler import Settings as SchedulerSettings
from fairqued.scheduler.scheduler import TaskScheduler
from fairqued.store import Store
from fairqued.version import __version__

logger = logging.getLogger("fairqued.master")

_KILL_GRACE_SECONDS = 1.5
_PUT_BACK_SECONDS = 1.0
_FORK_WAIT_SECONDS = 5.0
_LONGEST_WAIT_SECONDS = 1.0
_REDIS_PAUSE_SECONDS = 5.0
_ERROR_PAUSE_SECONDS = 0.5


class Master:
    """Supervises the workers of one configuration.

    Duties: put back what a predecessor's workers held, before anything is fetched; fork a worker for each vacant post;
    notice deaths and put back the tasks of the dead at once; kill workers that do not get ready; keep an embedded
    Redis running; on SIGTERM drain, on a second one stop quickly.
    """

    def __init__(
        self, config: Config, state: StateDirectory, redis_url: str, *, embedded: EmbeddedRedis | None = None,
        ends_if_boot_fails: bool = False,
    ) -> None:  # fmt: skip
        self._config, self._state, self._redis_url = config, state, redis_url
        self._embedded = embedded
        self._ends_if_boot_fails = ends_if_boot_fails
        self._crew = Crew(config)
        self._signals = signals.SignalQueue([*signals.STOPPING, *signals.LATER, signal.SIGCHLD])
        self._life_read, self._life_write = os.pipe()
        self.gate = ForkGate()
        store = Store(Connection(redis_url, timeout_seconds=1.0), config.namespace)
        self._scheduler = TaskScheduler(store, self.gate, scheduler_settings(config), living=self._living)
        self._predecessors: set[str] = set()
        self._redis_at = 0.0
        self._kill_at: float | None = None
        self._failure: Failure | None = None
        self._started_at = time.monotonic()

    def run(self, *, serve: Callable[[], None] = lambda: None) -> None:
        """Supervise until told to stop. `serve` starts what answers from threads (control).

        Raises Failure when it may not go on without a worker that cannot boot.
        """
        setproctitle.setproctitle("fairqued: master")
        self._put_back_predecessors()
        self._scheduler.start()
        serve()
        logger.info("fairqued is up: %d workers, state in %s", len(self._crew.posts), self._state.path)
        while not self._is_over():
            arrived, readable = self._signals.wait(self._wait_seconds(), self._boot_fds())
            for duty in (
                partial(self._obey, arrived), partial(self._hear_boots, readable), self._reap,
                self._keep_redis, self._keep_scheduler, self._manage,
            ):  # fmt: skip
                with _surviving():
                    duty()
        self._end()
        if self._failure:
            raise self._failure

    def status(self) -> dict[str, Any]:
        """What `fairquectl status` shows of this daemon."""
        return {
            "pid": os.getpid(),
            "version": __version__,
            "instance": self._state.instance,
            "boot": self._state.boot,
            "namespace": self._config.namespace,
            "state_dir": str(self._state.path),
            "uptime_seconds": round(time.monotonic() - self._started_at, 3),
            "phase": "running" if self._kill_at is None else "stopping",
            "redis": self._scheduler.redis_state(),
            "workers": [_post_status(post) for post in self._crew.posts],
        }

    # One round of the loop

    def _is_over(self) -> bool:
        return self._kill_at is not None and not self._crew.children()

    def _wait_seconds(self) -> float:
        until = time.monotonic() + _LONGEST_WAIT_SECONDS
        if self._kill_at is not None:
            until = min(until, self._kill_at)
        elif self._may_fork():
            until = min(until, self._crew.next_fill())
        return max(0.0, until - time.monotonic())

    def _obey(self, arrived: Iterable[signal.Signals]) -> None:
        for number in arrived:
            match number:
                case signal.SIGTERM | signal.SIGINT if self._kill_at is None:
                    self._drain()
                case signal.SIGTERM | signal.SIGINT | signal.SIGQUIT:
                    self._stop_quickly()
                case signal.SIGCHLD:
                    pass  # each round reaps
                case _:
                    logger.warning("%s means nothing yet: that comes with a later release", number.name)

    def _boot_fds(self) -> list[int]:
        return [child.boot_fd for child in self._crew.children() if child.boot_fd >= 0]

    def _hear_boots(self, readable: Iterable[int]) -> None:
        for child in self._crew.children():
            if child.boot_fd in readable:
                self._hear_boot(child)

    def _hear_boot(self, child: Child) -> None:
        """What a worker says when it is ready, or why it cannot be; nothing if it died without a word."""
        boot_fd, child.boot_fd = child.boot_fd, -1
        said = _read_and_close(boot_fd)
        if said == child_process.READY and child.phase is Phase.BOOTING:
            child.phase = Phase.READY
            post = self._crew.post_of(child)
            post.trouble = ""
            logger.info("worker %s is ready", post.title, extra={"worker": child.worker_id})
        elif said and said != child_process.READY:
            child.trouble = said.decode(errors="replace")

    def _reap(self) -> None:
        for child in self._crew.children():
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                self._bury(child, status)

    def _bury(self, child: Child, status: int) -> None:
        post = self._crew.post_of(child)
        if child.boot_fd >= 0:
            self._hear_boot(child)
        pause = post.vacate(booted=child.phase is Phase.READY)
        is_own_end = exits.exit_code(status) in exits.OWN_WORKER_CODES or child.phase is Phase.STOPPING
        self._put_back(child.worker_id, "drain" if is_own_end else "death")
        how = exits.in_words(status)
        match child.phase:
            case Phase.STOPPING:
                logger.info("worker %s %s", post.title, how, extra={"worker": child.worker_id})
            case Phase.READY:
                logger.warning(
                    "worker %s %s; the next one starts %s", post.title, how, f"in {pause:.1f} s" if pause else "now",
                    extra={"worker": child.worker_id},
                )  # fmt: skip
            case Phase.BOOTING:
                self._tell_trouble(post, child.trouble or how)

    def _put_back(self, worker_id: str, why: str) -> None:
        self._state.remember(worker_id, why)
        self._scheduler.put_back(worker_id, why, self._state.forget)

    def _tell_trouble(self, post: Post, trouble: str) -> None:
        """Why a post stays vacant: once for each reason."""
        if self._ends_if_boot_fails:
            self._failure = Failure(f"worker {post.title} cannot boot: {trouble}", exits.BAD_USAGE)
            self._stop_quickly()
        elif trouble != post.trouble:
            logger.error("worker %s cannot boot, and is tried again after growing pauses: %s", post.title, trouble)
        post.trouble = trouble

    def _manage(self) -> None:
        now = time.monotonic()
        if self._kill_at is not None:
            if now >= self._kill_at:
                self._kill_rest(now)
            return
        self._kill_stalled(now)
        if self._may_fork():
            for post in self._crew.vacant(now):
                self._fill(post)

    def _may_fork(self) -> bool:
        """Not before a predecessor's tasks are put back; nor without Redis, which a worker needs to boot."""
        return not self._predecessors and self._scheduler.sees_redis

    def _kill_stalled(self, now: float) -> None:
        limit = self._config.worker.boot_timeout_seconds
        for child in self._crew.children():
            if child.phase is Phase.BOOTING and now - child.born_at > limit:
                child.trouble = child.trouble or f"it was not ready after worker.boot_timeout_seconds ({limit:g})"
                os.kill(child.pid, signal.SIGKILL)

    def _kill_rest(self, now: float) -> None:
        for child in self._crew.children():
            logger.warning("worker %s did not end in time and is killed", self._crew.post_of(child).title)
            os.kill(child.pid, signal.SIGKILL)
        self._kill_at = now + _KILL_GRACE_SECONDS

    def _keep_redis(self) -> None:
        now = time.monotonic()
        if self._embedded is None or now < self._redis_at or self._embedded.is_running():
            return
        logger.warning("embedded Redis has died, and is started again")
        try:
            self._embedded.start(self._config.redis.start_timeout_seconds)
        except FairquedError as error:
            logger.error("%s", error)  # noqa: TRY400 - it tells all
            self._redis_at = now + _REDIS_PAUSE_SECONDS

    def _keep_scheduler(self) -> None:
        if not self._scheduler.is_alive():
            logger.error("the scheduler's thread has died; another one takes over")
            self._scheduler.start()

    # Forking

    def _fill(self, post: Post) -> None:
        with self.gate.fork(_FORK_WAIT_SECONDS) as is_quiet:
            if not is_quiet:
                logger.warning("worker %s is not forked yet: a thread of the master is busy", post.title)
                return
            try:
                post.child = self._fork(post)
            except OSError as error:
                post.vacate(booted=False)
                self._tell_trouble(post, f"it cannot be forked: {error}")

    def _fork(self, post: Post) -> Child:
        worker_id = self._state.new_worker_id()
        self._state.announce(worker_id)
        boot_read, boot_write = os.pipe()
        os.set_blocking(boot_read, False)  # the other end may outlive the worker, in a process that it started
        try:
            pid = _fork_into(
                Birth(
                    worker_id=worker_id, title=post.title, pool=post.pool, config=self._config,
                    redis_url=self._redis_url, lock_file=self._state.worker_file(worker_id),
                    boot_fd=boot_write, master_fd=self._life_read,
                )
            )  # fmt: skip
        except OSError:
            os.close(boot_read)
            self._state.forget(worker_id)
            raise
        finally:
            os.close(boot_write)
        return Child(pid, worker_id, boot_read)

    def _living(self) -> list[str]:
        return [child.worker_id for child in self._crew.children()]

    # Beginning and end

    def _put_back_predecessors(self) -> None:
        """What the workers of a killed master held goes back to its queues; nothing is forked before that is done."""
        left = self._state.predecessors()
        self._predecessors = set(left)
        for worker_id, noted in left.items():
            why = noted if noted in ("drain", "death") else "lost"
            self._scheduler.put_back(worker_id, why, self._forget_predecessor)

    def _forget_predecessor(self, worker_id: str) -> None:
        """Called by the scheduler's thread."""
        self._predecessors.discard(worker_id)
        self._signals.wake()
        self._state.forget(worker_id)

    def _drain(self) -> None:
        seconds = self._config.worker.drain_seconds
        logger.info("stopping: running tasks have %g s", seconds)
        self._end_workers(signal.SIGTERM, seconds)

    def _stop_quickly(self) -> None:
        logger.info("stopping at once")
        self._end_workers(signal.SIGKILL, 0)

    def _end_workers(self, how: signal.Signals, within_seconds: float) -> None:
        self._kill_at = time.monotonic() + within_seconds + _KILL_GRACE_SECONDS
        for child in self._crew.children():
            child.phase = Phase.STOPPING
            os.kill(child.pid, how)

    def _end(self) -> None:
        self._scheduler.stop()
        left = self._scheduler.finish_put_back(_PUT_BACK_SECONDS)
        if left:
            logger.warning("Redis is away: the next start puts back the tasks of %s", ", ".join(left))
        logger.info("fairqued has stopped")


@contextmanager
def _surviving() -> Iterator[None]:
    """An error in one duty keeps the master from none of the others, and never ends it."""
    try:
        yield
    except Exception:
        logger.exception("a duty of the master failed")
        time.sleep(_ERROR_PAUSE_SECONDS)


def _fork_into(birth: Birth) -> int:
    """Fork with all signals blocked; the child never returns from here."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals.ALL)
    try:
        pid = os.fork()
        if pid == 0:
            _be_child(birth)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
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


def _read_and_close(boot_fd: int) -> bytes:
    try:
        return os.read(boot_fd, 4096)
    except BlockingIOError:
        return b""
    finally:
        os.close(boot_fd)


def _post_status(post: Post) -> dict[str, Any]:
    child = post.child
    about: dict[str, Any] = {"title": post.title, "pool": post.pool.name, "queues": list(post.pool.queue_names)}
    if child:
        about |= {"worker_id": child.worker_id, "pid": child.pid, "phase": child.phase.value,
                  "age_seconds": round(time.monotonic() - child.born_at, 3)}  # fmt: skip
    else:
        about |= {"phase": "waiting", "trouble": post.trouble}
    return about


def scheduler_settings(config: Config) -> SchedulerSettings:
    """What the scheduler thread needs to know, in its own units."""
    keep = config.retention
    return SchedulerSettings(
        lease_us=int(config.worker.lease_seconds * 1e6),
        finished=(int(keep.finished_seconds * 1e6), keep.finished_max),
        failed=(int(keep.failed_seconds * 1e6), keep.failed_max),
        dedup_us=int(keep.dedup_seconds * 1e6),
        only_own_workers=not config.scheduler.enabled,
    )
