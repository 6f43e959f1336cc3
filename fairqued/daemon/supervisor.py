"""The supervisor: the life of the workers, from fork to burial."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterable, Sequence
from functools import partial

from fairqued.crash_points import crash_point
from fairqued.daemon import child as child_process
from fairqued.daemon import exits, namespace
from fairqued.daemon.config import Config
from fairqued.daemon.crew import Child, Crew, Phase, Post
from fairqued.daemon.exits import Failure
from fairqued.daemon.identity import StateDirectory
from fairqued.daemon.nursery import Busy, Nursery, hear_boot
from fairqued.scheduler.scheduler import Death, TaskScheduler
from fairqued.worker.worker import EXIT_FENCED

logger = logging.getLogger("fairqued.master")

KILL_GRACE_SECONDS = 1.5
"""How long after its time is over a worker may still take to end."""
_LOOK_SECONDS = 1.0


class Supervisor:
    """Keeps the crew at its posts. Only the main thread calls it.

    Duties: fork a worker for each vacant post; notice deaths, and have the tasks of the dead put back at once; kill
    workers that do not get ready, show no sign of life, or do not end; replace those that are out of date or wish for
    it, the heir ready before its predecessor leaves.
    """

    def __init__(
        self, config: Config, state: StateDirectory, nursery: Nursery, scheduler: TaskScheduler, *,
        ends_if_boot_fails: bool = False,
    ) -> None:  # fmt: skip
        self.crew = Crew(config)
        self.failure: Failure | None = None
        """Why the daemon cannot go on."""
        self.is_ending = False
        self._config, self._state, self._nursery, self._scheduler = config, state, nursery, scheduler
        self._ends_if_boot_fails = ends_if_boot_fails
        self._hidden_work: set[str] = set()
        self._looked_at = 0.0

    def reshape(self, config: Config) -> None:
        """Take over the pools of a new configuration; every worker is replaced from now on."""
        self._config = config
        self._retire(self.crew.reshape(config))

    def scale(self, pool: str, processes: int) -> None:
        """Let a pool have so many workers until the next reload."""
        logger.info("pool %s: %d workers from now on", pool, processes)
        self._retire(self.crew.scale(pool, processes))

    def hide(self, queues: Sequence[str]) -> None:
        """Fork a worker with one slot for the hidden queue of each of these. Called from any thread."""
        self._hidden_work.update(queues)

    def next_event(self) -> float:
        """When something is to be done here, at the latest."""
        kills = min((child.kill_at for child in self.crew.children()), default=float("inf"))
        return kills if self.is_ending else min(kills, self.crew.next_fill())

    # Birth

    def fork(self) -> None:
        """Fork what is missing, and at most one heir a pool."""
        while self._hidden_work:
            self.crew.hide(self._hidden_work.pop())
        now = time.monotonic()
        try:
            for post in self.crew.vacant(now):
                post.child = self._fork_for(post)
            for post in self.crew.heirless(now):
                post.heir = self._fork_for(post)
        except Busy:
            logger.warning("no worker is forked for now: a thread of the master is busy")

    def _fork_for(self, post: Post) -> Child | None:
        try:
            return self._nursery.fork(post, self._config, self.crew.generation)
        except OSError as error:
            post.vacate(None)
            self._tell_trouble(post, f"it cannot be forked: {error}")
            return None

    def boot_fds(self) -> list[int]:
        """Where workers tell that they are ready."""
        return [child.boot_fd for child in self.crew.children() if child.boot_fd >= 0]

    def hear_boots(self, readable: Iterable[int]) -> None:
        """Listen to what booting workers have to say."""
        for child in self.crew.children():
            if child.boot_fd in readable and self._says_ready(child):
                self._greet(child)

    def _says_ready(self, child: Child) -> bool:
        said = hear_boot(child)
        if said == child_process.READY:
            return child.phase is Phase.BOOTING
        child.trouble = said.decode(errors="replace") or child.trouble
        return False

    def _greet(self, child: Child) -> None:
        logger.info("worker %s is ready", child.title, extra={"worker": child.worker_id})
        child.pulse.begin(time.monotonic())
        if old := self.crew.welcome(child):
            self._retire([old])

    def _tell_trouble(self, post: Post, trouble: str) -> None:
        """Why a post stays vacant, or keeps its old worker: once for each reason."""
        if self._ends_if_boot_fails and post.child is None:
            self.failure = Failure(f"worker {post.title} cannot boot: {trouble}", exits.BAD_USAGE)
        elif trouble != post.trouble:
            meanwhile = "; the old one goes on meanwhile" if post.child else ""
            logger.error(
                "worker %s cannot boot, and is tried again after growing pauses%s: %s", post.title, meanwhile, trouble
            )
        post.trouble = trouble

    # Life

    def look_after(self) -> None:
        """Kill those that do not end in time; about once a second look for signs of life and for wishes."""
        now = time.monotonic()
        for child in self.crew.children():
            if now >= child.kill_at:
                self._kill(child, "did not end in time")
                child.kill_at = now + KILL_GRACE_SECONDS
        if now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            for child in self.crew.children():
                if child.phase is Phase.BOOTING:
                    self._look_at_boot(child, now)
                else:
                    self._look_after(child, now)
            self._retire(self.crew.dispensable())

    def _look_at_boot(self, child: Child, now: float) -> None:
        limit = child.config.worker.boot_timeout_seconds
        if now - child.born_at > limit:
            child.trouble = child.trouble or f"it was not ready after worker.boot_timeout_seconds ({limit:g})"
            os.kill(child.pid, signal.SIGKILL)

    def _look_after(self, child: Child, now: float) -> None:
        had_wish = child.pulse.wish
        if trouble := child.pulse.look(now):
            child.is_suspect = True
            self._kill(child, trouble)
        elif child.pulse.wish and not had_wish:
            logger.info("worker %s is to be replaced: %s", child.title, child.pulse.wish)

    def dump(self) -> None:
        """Let the workers write into the log what their threads do."""
        for child in self.crew.children():
            if child.phase is not Phase.BOOTING:
                os.kill(child.pid, signal.SIGUSR2)

    def _kill(self, child: Child, why: str) -> None:
        child.killed = why
        logger.warning("worker %s %s, and is killed", child.title, why, extra={"worker": child.worker_id})
        os.kill(child.pid, signal.SIGKILL)

    # Death

    def reap(self) -> None:
        """Bury the dead."""
        for child in self.crew.children():
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                self._bury(child, status)

    def _bury(self, child: Child, status: int) -> None:
        crash_point("after_death")
        if child.boot_fd >= 0 and self._says_ready(child):
            child.phase = Phase.READY
        post, pause = self.crew.bury(child)
        death = _death_of(child, status)
        self._state.remember(death)
        self._scheduler.put_back(death)
        if exits.exit_code(status) == EXIT_FENCED:
            self._scheduler.run_errand("restore", partial(namespace.restore, config=self._config))
        self._tell_death(child, status, post, pause)

    def _tell_death(self, child: Child, status: int, post: Post | None, pause: float) -> None:
        how = exits.in_words(status, child.killed)
        if child.phase is Phase.BOOTING and post:
            self._tell_trouble(post, child.trouble or how)
            return
        was_expected = child.killed or exits.exit_code(status) == exits.WORKER_STOPPED
        is_replaced = post and not post.is_hidden and not self.is_ending
        after = f"; the next one starts {f'in {pause:.1f} s' if pause else 'now'}" if is_replaced else ""
        logger.log(
            logging.INFO if was_expected else logging.WARNING, "worker %s %s%s", child.title, how, after,
            extra={"worker": child.worker_id},
        )  # fmt: skip

    def end_all(self, how: signal.Signals, within_seconds: float) -> None:
        """Tell every worker to end, or kill it."""
        self.is_ending = True
        by = time.monotonic() + within_seconds + KILL_GRACE_SECONDS
        for child in self.crew.children():
            child.phase, child.kill_at = Phase.STOPPING, min(child.kill_at, by)
            if how is signal.SIGKILL:
                child.killed = "was to stop at once"
            os.kill(child.pid, how)

    def _retire(self, children: Iterable[Child]) -> None:
        """Tell workers that they are replaced, or not needed any more."""
        for child in children:
            drain_seconds = 0 if child.phase is Phase.BOOTING else child.config.worker.drain_seconds
            child.phase, child.kill_at = Phase.STOPPING, time.monotonic() + drain_seconds + KILL_GRACE_SECONDS
            os.kill(child.pid, signal.SIGTERM)


def _death_of(child: Child, status: int) -> Death:
    """How a worker ended, as the tasks see it that it held."""
    wills = child.pulse.wills(time.monotonic())
    code = exits.exit_code(status)
    was_drained = code in exits.OWN_WORKER_CODES or (child.killed != "" and code == -signal.SIGKILL)
    if was_drained and not child.is_suspect:
        return Death(worker_id=child.worker_id, why="drain", wills=wills)
    why = "crash" if child.pool.threads == 1 else "death"
    return Death(worker_id=child.worker_id, why=why, error=exits.as_error(status, child.killed), wills=wills)
