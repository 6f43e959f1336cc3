"""The master: forks workers, keeps them alive, puts back what the dead ones held, and ends in good order."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import setproctitle

from fairqued.connection import Connection
from fairqued.daemon import child as child_process
from fairqued.daemon import exits, log, signals
from fairqued.daemon.child import Birth
from fairqued.daemon.config import Config
from fairqued.daemon.crew import Child, Crew, Phase, Post
from fairqued.daemon.gate import ForkGate
from fairqued.daemon.identity import StateDirectory
from fairqued.scheduler.scheduler import Settings as SchedulerSettings
from fairqued.scheduler.scheduler import TaskScheduler
from fairqued.store import Store

logger = logging.getLogger("fairqued.master")

_QUICK_SECONDS = 1.0
_KILL_GRACE_SECONDS = 2.0
_PUT_BACK_SECONDS = 2.0
_FORK_WAIT_SECONDS = 5.0
_LONGEST_WAIT_SECONDS = 1.0


class Master:
    """Supervises the workers of one configuration.

    Duties: fork a worker for each vacant post; notice deaths and put back the tasks of the dead at once; kill workers
    that do not get ready; on SIGTERM drain, on a second one stop quickly.
    """

    def __init__(self, config: Config, state: StateDirectory, redis_url: str, *, ends_if_boot_fails: bool = False) -> None:
        self._config, self._state, self._redis_url = config, state, redis_url
        self._crew = Crew(config)
        self._gate = ForkGate()
        self._signals = signals.SignalQueue(
            [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD]
        )
        self._life_read, self._life_write = os.pipe()
        store = Store(Connection(redis_url, timeout_seconds=1.0), config.namespace)
        self._scheduler = TaskScheduler(store, self._gate, scheduler_settings(config), living=self._living)
        self._ends_if_boot_fails = ends_if_boot_fails
        self._kill_at: float | None = None
        self._exit_code = exits.OK
        self.started_at = time.time()

    def run(self, *, serve: Callable[[Master], Any] | None = None) -> int:
        """Supervise until told to stop; returns the exit code. `serve` starts what answers from threads (control)."""
        setproctitle.setproctitle("fairqued: master")
        self._put_back_predecessors()
        self._scheduler.start()
        if serve:
            serve(self)
        logger.info("fairqued is up: %d workers, state in %s", len(self._crew.posts), self._state.path)
        while not self._is_over():
            arrived, readable = self._signals.wait(self._wait_seconds(), self._boot_fds())
            for number in arrived:
                self._handle(number)
            self._hear_boots(readable)
            self._reap()
            self._manage()
        self._end()
        return self._exit_code

    @property
    def gate(self) -> ForkGate:
        """Where threads of this process do their work."""
        return self._gate

    def status(self) -> dict[str, Any]:
        """What `fairquectl status` shows of this daemon."""
        return {
            "pid": os.getpid(),
            "instance": self._state.instance,
            "boot": self._state.boot,
            "namespace": self._config.namespace,
            "state_dir": str(self._state.path),
            "uptime_seconds": round(time.time() - self.started_at, 3),
            "phase": "stopping" if self._kill_at is not None else "running",
            "redis": self._scheduler.redis_state(),
            "workers": [_post_status(post) for post in self._crew.posts],
        }

    def stop(self) -> None:
        """Drain, as SIGTERM does. For other threads."""
        os.kill(os.getpid(), signal.SIGTERM)

    # One round of the loop

    def _is_over(self) -> bool:
        return self._kill_at is not None and not self._crew.children()

    def _wait_seconds(self) -> float:
        now = time.monotonic()
        until = [now + _LONGEST_WAIT_SECONDS, self._crew.next_fill() if self._kill_at is None else now + 60]
        if self._kill_at is not None:
            until.append(self._kill_at)
        return max(0.0, min(until) - now)

    def _handle(self, number: signal.Signals) -> None:
        match number:
            case signal.SIGTERM | signal.SIGINT if self._kill_at is None:
                self._start_to_stop(self._config.worker.drain_seconds)
            case signal.SIGTERM | signal.SIGINT | signal.SIGQUIT:
                self._start_to_stop(_QUICK_SECONDS)
            case signal.SIGHUP:
                logger.warning("SIGHUP: reload comes with a later release; restart to apply a new configuration")

    def _boot_fds(self) -> list[int]:
        return [child.boot_fd for child in self._crew.children() if child.phase is Phase.BOOTING and child.boot_fd >= 0]

    def _hear_boots(self, readable: list[int]) -> None:
        for post in self._crew.posts:
            child = post.child
            if child is None or child.boot_fd not in readable:
                continue
            said = os.read(child.boot_fd, 4096)
            os.close(child.boot_fd)
            child.boot_fd = -1
            if said == child_process.READY:
                if child.phase is Phase.BOOTING:
                    child.phase = Phase.READY
                post.trouble = ""
                logger.info("worker %s is ready", post.title, extra={"worker": child.worker_id})
            elif said:
                self._tell_trouble(post, said.decode(errors="replace"))

    def _tell_trouble(self, post: Post, trouble: str) -> None:
        if trouble != post.trouble:
            logger.error("worker %s cannot boot: %s", post.title, trouble)
        post.trouble = trouble

    def _reap(self) -> None:
        for child in self._crew.children():
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                self._bury(child, status)

    def _bury(self, child: Child, status: int) -> None:
        post = self._crew.post_of(child.pid)
        assert post is not None
        if child.boot_fd >= 0:
            self._hear_boots([child.boot_fd])
        is_own_end = exits.exit_code(status) in exits.OWN_WORKER_CODES or child.phase is Phase.STOPPING
        self._scheduler.put_back(child.worker_id, "drain" if is_own_end else "death", self._state.forget)
        booted = child.phase is not Phase.BOOTING
        pause = post.lost(booted=booted)
        if child.phase is Phase.STOPPING:
            logger.info("worker %s %s", post.title, exits.in_words(status), extra={"worker": child.worker_id})
            return
        logger.warning(
            "worker %s %s; the next one starts %s", post.title, exits.in_words(status),
            f"in {pause:.1f} s" if pause else "now", extra={"worker": child.worker_id},
        )  # fmt: skip
        if self._ends_if_boot_fails and not booted:
            self._exit_code = exits.BAD_USAGE
            self._start_to_stop(_QUICK_SECONDS)

    def _manage(self) -> None:
        now = time.monotonic()
        if self._kill_at is None:
            for post in self._crew.vacant(now):
                self._fill(post)
            self._kill_stalled(now)
        elif now >= self._kill_at:
            for child in self._crew.children():
                logger.warning("worker %s did not end in time and is killed", child.worker_id)
                os.kill(child.pid, signal.SIGKILL)
            self._kill_at = now + _KILL_GRACE_SECONDS

    def _kill_stalled(self, now: float) -> None:
        limit = self._config.worker.boot_timeout_seconds
        for post in self._crew.posts:
            child = post.child
            if child and child.phase is Phase.BOOTING and now - child.born_at > limit:
                self._tell_trouble(post, f"it was not ready after boot_timeout_seconds ({limit:g} s) and is killed")
                os.kill(child.pid, signal.SIGKILL)
                child.born_at = now

    # Forking

    def _fill(self, post: Post) -> None:
        with self._gate.fork(_FORK_WAIT_SECONDS) as is_quiet:
            if not is_quiet:
                logger.warning("worker %s is not forked yet: a thread of the master is busy", post.title)
                return
            post.child = self._fork(post)

    def _fork(self, post: Post) -> Child:
        worker_id = self._state.new_worker_id()
        self._state.announce(worker_id)
        boot_read, boot_write = os.pipe()
        birth = Birth(
            worker_id=worker_id, title=post.title, pool=post.pool, config=self._config, redis_url=self._redis_url,
            lock_file=self._state.worker_file(worker_id), boot_fd=boot_write, master_fd=self._life_read,
        )  # fmt: skip
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signals.ALL)
        try:
            pid = os.fork()
            if pid == 0:
                _be_child(birth)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(boot_write)
        return Child(pid, worker_id, boot_read)

    def _living(self) -> list[str]:
        return [child.worker_id for child in self._crew.children()]

    # Beginning and end

    def _put_back_predecessors(self) -> None:
        """Before anything is fetched: what the workers of a killed master held goes back to its queues."""
        for worker_id in self._state.predecessors():
            self._scheduler.put_back(worker_id, "lost", self._state.forget)
        self._scheduler.finish_put_back(self._config.redis.start_timeout_seconds)

    def _start_to_stop(self, within_seconds: float) -> None:
        if self._kill_at is None:
            logger.info("stopping: running tasks have %g s", within_seconds)
        self._kill_at = time.monotonic() + within_seconds + _KILL_GRACE_SECONDS
        how = signal.SIGTERM if within_seconds > _QUICK_SECONDS else signal.SIGKILL
        for child in self._crew.children():
            child.phase = Phase.STOPPING
            os.kill(child.pid, how)

    def _end(self) -> None:
        self._scheduler.stop()
        left = self._scheduler.finish_put_back(_PUT_BACK_SECONDS)
        if left:
            logger.warning("Redis is away: the tasks of %s are put back at the next start", ", ".join(left))
        logger.info("fairqued has stopped")


def _be_child(birth: Birth) -> None:
    code = exits.FAILED
    try:
        code = child_process.live(birth)
    except BaseException:
        logger.exception("worker %s broke", birth.title)
    finally:
        log.flush()
        os._exit(code)


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
    )

