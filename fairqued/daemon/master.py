"""The master: one loop that obeys signals and requests, supervises workers, and ends in good order."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson
import setproctitle

from fairqued.connection import Connection
from fairqued.daemon import log, namespace, report, signals
from fairqued.daemon.config import Config
from fairqued.daemon.control import Answer, Refusal, Request
from fairqued.daemon.embedded import EmbeddedRedis
from fairqued.daemon.gate import ForkGate
from fairqued.daemon.identity import StateDirectory
from fairqued.daemon.nursery import Nursery
from fairqued.daemon.orphans import bury_orphans
from fairqued.daemon.reload import Load, Reloads, load_again
from fairqued.daemon.stacks import all_stacks
from fairqued.daemon.supervisor import KILL_GRACE_SECONDS, Supervisor
from fairqued.daemon.systemd import Systemd
from fairqued.daemon.watch import SourceFiles
from fairqued.errors import FairquedError
from fairqued.scheduler.scheduler import TaskScheduler
from fairqued.store import Store
from fairqued.version import __version__

logger = logging.getLogger("fairqued.master")

_PUT_BACK_SECONDS = 1.5
_LONGEST_WAIT_SECONDS = 1.0
_REDIS_PAUSE_SECONDS = 5.0
_LAST_STEPS_SECONDS = 2 * KILL_GRACE_SECONDS + _PUT_BACK_SECONDS + 1.0
"""What an end takes at most beside the time that tasks have."""
_ERROR_PAUSE_SECONDS = 0.5
_MOST_PROCESSES = 1000


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a master finds around it."""

    state: StateDirectory
    redis_url: str
    load: Load
    """Reads the configuration anew."""
    embedded: EmbeddedRedis | None = None
    systemd: Systemd = field(default_factory=lambda: Systemd({}))
    watched: SourceFiles | None = None
    """Files whose change is a reload."""
    ends_if_boot_fails: bool = False


class Master:
    """Runs one configuration.

    Duties: put back what a predecessor's workers held, before anything is fetched; supervise the workers; keep an
    embedded Redis and the scheduler's thread running; take a new configuration; on SIGTERM drain, on a second one
    stop quickly.
    """

    def __init__(self, config: Config, surroundings: Surroundings) -> None:
        self._config, self._surroundings, self._state = config, surroundings, surroundings.state
        self._systemd = surroundings.systemd
        self.gate = ForkGate()
        store = Store(Connection(surroundings.redis_url, timeout_seconds=1.0, try_seconds=1.0), config.namespace)
        self._scheduler = TaskScheduler(store, self.gate, namespace.scheduler_settings(config), self)
        self._supervisor = Supervisor(
            config, self._state, Nursery(self._state, self.gate, surroundings.redis_url), self._scheduler,
            ends_if_boot_fails=surroundings.ends_if_boot_fails,
        )  # fmt: skip
        self._crew = self._supervisor.crew
        self._reloads = Reloads(self._reload, outdated=self._crew.outdated, trouble=self._trouble)
        self._predecessors: set[str] = set()
        self._requests: deque[Request] = deque()
        self._redis_at = 0.0
        self._started_at = time.monotonic()
        self._signals = signals.SignalQueue([*signals.STOPPING, *signals.OPERATING, signal.SIGCHLD])

    def run(self, *, serve: Callable[[], None] = lambda: None) -> None:
        """Supervise until told to stop. `serve` starts what answers from threads (control).

        Raises Failure when it may not go on without a worker that cannot boot.
        """
        setproctitle.setproctitle("fairqued: master")
        self._put_back_predecessors()
        self._scheduler.start()
        serve()
        logger.info("fairqued is up: %d workers, state in %s", len(self._crew.posts), self._state.path)
        self._systemd.ready(self._summary())
        while not (self._is_ending and not self._crew.children()):
            arrived, readable = self._signals.wait(self._wait_seconds(), self._supervisor.boot_fds())
            for duty in (
                partial(self._obey, arrived), self._carry_out_requests, self._watch_sources,
                partial(self._supervisor.hear_boots, readable), self._supervisor.reap, self._supervisor.look_after,
                self._keep_redis, self._keep_scheduler, self._keep_up, self._bury_orphans, self._tell_systemd,
            ):  # fmt: skip
                with _surviving():
                    duty()
        self._end()
        if self._supervisor.failure:
            raise self._supervisor.failure

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
            "phase": "stopping" if self._is_ending else "running",
            "redis": self._scheduler.redis_state(),
            "rollout": self._reloads.status(),
            "workers": report.workers(self._crew),
        }

    def order(self, request: Request) -> None:
        """Let the loop carry out a request. Called from another thread."""
        self._requests.append(request)
        self._signals.wake()

    # One round of the loop

    @property
    def _is_ending(self) -> bool:
        return self._supervisor.is_ending

    def _wait_seconds(self) -> float:
        until = time.monotonic() + _LONGEST_WAIT_SECONDS
        if self._is_ending or self._may_fork():
            until = min(until, self._supervisor.next_event())
        return max(0.0, until - time.monotonic())

    def _obey(self, arrived: Iterable[signal.Signals]) -> None:
        for number in arrived:
            if number in signals.STOPPING:
                self._obey_stop(number)
            elif self._is_ending and number in signals.OPERATING and number is not signal.SIGUSR2:
                logger.info("%s has no effect: fairqued is stopping", number.name)
            else:
                self._obey_order(number)

    def _obey_stop(self, number: signal.Signals) -> None:
        if self._is_ending or number is signal.SIGQUIT:
            self._stop_quickly()
        else:
            self._drain()

    def _obey_order(self, number: signal.Signals) -> None:
        match number:
            case signal.SIGHUP:
                self._reloads.ask()
            case signal.SIGTTIN:
                self._scale_first_pool(1)
            case signal.SIGTTOU:
                self._scale_first_pool(-1)
            case signal.SIGUSR1:
                logger.info("SIGUSR1: logs go to standard error; whoever keeps them in a file reopens it")
            case signal.SIGUSR2:
                self._dump()

    def _carry_out_requests(self) -> None:
        while self._requests:
            request = self._requests.popleft()
            match request.command:
                case "reload":
                    request.answer(self._reload_now)
                case "drain":
                    request.answer(self._drain)
                case "scale":
                    request.answer(partial(self._scale, request.said.get("pool"), request.said.get("processes")))

    def _watch_sources(self) -> None:
        watched = self._surroundings.watched
        if watched and (changed := watched.changed()):
            logger.info("%s changed", ", ".join(path.name for path in changed[:5]))
            self._reloads.ask()

    def _keep_redis(self) -> None:
        now, embedded = time.monotonic(), self._surroundings.embedded
        if embedded is None or now < self._redis_at or embedded.is_running():
            return
        self._redis_at = now + _REDIS_PAUSE_SECONDS
        logger.warning("embedded Redis has died, and is started again; its log is in %s", self._state.path / "redis")
        try:
            embedded.revive()
        except FairquedError as error:
            logger.error("%s", error)  # noqa: TRY400 - it tells all

    def _bury_orphans(self) -> None:
        """As process 1 of a container the master is the parent of all whose own one is gone."""
        if os.getpid() == 1:
            embedded = self._surroundings.embedded
            own = [child.pid for child in self._crew.children()]
            bury_orphans({*own, embedded.pid} if embedded and embedded.pid else own)

    def _keep_scheduler(self) -> None:
        if not self._scheduler.is_alive():
            logger.error("the scheduler's thread has died; another one takes over")
            self._scheduler.start()

    def _keep_up(self) -> None:
        """Go on with a reload, and fork what is missing."""
        if self._is_ending:
            return
        if self._supervisor.failure:
            self._stop_quickly()
            return
        self._reloads.keep_up()
        if self._may_fork():
            self._supervisor.fork()

    def _may_fork(self) -> bool:
        """Not before a predecessor's tasks are put back; nor without Redis, which a worker needs to boot."""
        return not self._predecessors and self._scheduler.sees_redis

    # For the scheduler, which calls these from its thread

    def living(self) -> list[str]:
        """The workers that this master vouches for."""
        return [child.worker_id for child in self._crew.children()]

    def renewed(self, worker_ids: Iterable[str], at: float) -> None:
        """Let the workers know when their leases were renewed."""
        renewed = set(worker_ids)
        for child in self._crew.children():
            if child.worker_id in renewed:
                child.vitals.note_renewal(at)

    def hidden_work(self, queues: Sequence[str]) -> None:
        """Fork a worker with one slot for the hidden queue of each of these."""
        self._supervisor.hide(queues)
        self._signals.wake()

    def put_back(self, worker_id: str) -> None:
        """All that this worker held was put back."""
        if worker_id in self._predecessors:
            self._predecessors.discard(worker_id)
            self._signals.wake()
        self._state.forget(worker_id)

    # Orders

    def _reload_now(self) -> Answer:
        self._refuse_while_ending()
        return {"round": self._reloads.begin()}

    def _reload(self) -> None:
        """Take the configuration anew, and begin to replace all workers. Raises ConfigError, Refusal."""
        self._systemd.reloading()
        old, new = self._config, load_again(self._surroundings.load, self._config, self._surroundings.redis_url)
        self._config = new
        log.set_up(new.logging.level, new.logging.format)
        self._scheduler.settle(namespace.scheduler_settings(new))
        if not namespace.says_the_same(old, new):
            self._scheduler.run_errand("configure", partial(namespace.apply, config=new))
        self._supervisor.reshape(new)

    def _trouble(self) -> str:
        return report.trouble(self._crew) if self._scheduler.sees_redis else "Redis is away"

    def _scale_first_pool(self, by: int) -> None:
        pool = self._crew.first_pool
        self._supervisor.scale(pool, min(max(1, (self._crew.size_of(pool) or 0) + by), _MOST_PROCESSES))

    def _scale(self, pool: object, processes: object) -> Answer:
        self._refuse_while_ending()
        if not isinstance(pool, str) or self._crew.size_of(pool) is None:
            raise Refusal(f"there is no pool {pool!r}; there are {', '.join(self._crew.pool_names)}")
        if type(processes) is not int or not 1 <= processes <= _MOST_PROCESSES:
            raise Refusal(f"processes: expected a number from 1 to {_MOST_PROCESSES}, found {processes!r}")
        self._supervisor.scale(pool, processes)
        return {"pool": pool, "processes": processes}

    def _refuse_while_ending(self) -> None:
        if self._is_ending:
            raise Refusal("fairqued is stopping")

    # Beginning and end

    def _put_back_predecessors(self) -> None:
        """What the workers of a killed master held goes back to its queues; nothing is forked before that is done."""
        for death in self._state.predecessors():
            self._predecessors.add(death.worker_id)
            self._scheduler.put_back(death)

    def _drain(self) -> Answer:
        seconds = self._config.worker.drain_seconds
        if not self._is_ending:
            logger.info("stopping: running tasks have %g s", seconds)
            self._end_workers(signal.SIGTERM, seconds)
        return {"drain_seconds": seconds}

    def _stop_quickly(self) -> None:
        logger.info("stopping at once")
        self._end_workers(signal.SIGKILL, 0)

    def _end_workers(self, how: signal.Signals, within_seconds: float) -> None:
        self._systemd.stopping("stopping", within_seconds + _LAST_STEPS_SECONDS)
        self._supervisor.end_all(how, within_seconds)

    def _end(self) -> None:
        if left := self._scheduler.stop(_PUT_BACK_SECONDS):
            logger.warning("Redis is away: the next start puts back the tasks of %s", ", ".join(left))
        logger.info("fairqued has stopped")

    # To be seen

    def _summary(self) -> str:
        """One line for a service manager."""
        parts = ["stopping" if self._is_ending else "running", report.readiness(self._crew)]
        if not self._scheduler.sees_redis:
            parts.append("Redis is away")
        if left := self._reloads.left:
            parts.append(f"{left} to be replaced")
        return "; ".join([", ".join(parts), *filter(None, [self._reloads.trouble, self._reloads.refused])])

    def _tell_systemd(self) -> None:
        """A reload is over once all workers are replaced, and also once that does not get on: the next may mend it."""
        is_busy = self._is_ending or (self._reloads.is_rolling and not self._reloads.trouble)
        tell = self._systemd.status if is_busy else self._systemd.ready
        tell(self._summary())
        self._systemd.alive()

    def _dump(self) -> None:
        """Status and stacks into the log; the workers add theirs."""
        logger.info("status: %s", orjson.dumps(self.status()).decode())
        logger.info("stacks of the master:\n%s", all_stacks())
        self._supervisor.dump()


@contextmanager
def _surviving() -> Iterator[None]:
    """An error in one duty keeps the master from none of the others, and never ends it."""
    try:
        yield
    except Exception:
        logger.exception("a duty of the master failed")
        time.sleep(_ERROR_PAUSE_SECONDS)
