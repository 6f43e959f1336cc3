"""The field of a chaos run: Redis, two daemons and a client behind networks of their own, and what is done to them.

Whatever is done is noted: the notes explain later why tasks ran twice.
"""

from __future__ import annotations

import heapq
import itertools
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

from fairqued.connection import Connection
from fairqued.errors import QueueUnavailable
from fairqued.store import Store
from tests.support import chaos_daemon
from tests.support.audit import audited_scripts
from tests.support.chaos_host import CUT_OFF, FROZEN, Host
from tests.support.chaos_plan import Blow, Target
from tests.support.daemon import Daemon
from tests.support.hammer import CALM, OUTAGE, STORM, WEATHER
from tests.support.hammer_producer import LIMITS, QUEUES
from tests.support.proxy import Faults, FaultyProxy
from tests.support.servers import RedisServer

NAMESPACE = "chaos"
LEASE_SECONDS = 4.0
_AGAIN_SECONDS = 0.1

_SETTINGS: dict[str, Any] = {
    "redis": {"timeout_seconds": 2},
    "pools": [
        {
            "name": "main", "queues": list(QUEUES), "processes": 2, "threads": 4,
            "handler": "tests.support.chaos_worker:ChaosHandler",
        }
    ],
    "worker": {"lease_seconds": LEASE_SECONDS, "heartbeat_seconds": 1, "drain_seconds": 3},
    "users": LIMITS,
}  # fmt: skip

# Daemons renew leases over their network, so it may be bad but not silent: for that they are cut off.
ROUGH = Faults(drop_probability=0.1, copy_probability=0.3)
_OF_HOSTS = {OUTAGE: CALM, STORM: ROUGH}


class Field:
    """Everything that can be struck. Not thread-safe: one thread strikes and lets `undo_what_is_due`."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.redis = RedisServer(persist=True, options=["--appendfsync", "no"])
        self.counts: Counter[str] = Counter()
        self.troubles: list[str] = []
        self._undo: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._stack = ExitStack()
        self._folder, self._seed = folder, seed
        self._deeds: dict[str, Callable[[Blow, Host], None]] = {
            "kill a worker": self._kill_worker,
            "kill all workers": self._kill_all_workers,
            "freeze a worker": self._freeze_worker,
            "kill a master": self._kill_master,
            "kill a daemon": self._kill_daemon,
            "stop a daemon": self._stop_daemon,
            "freeze a master": self._freeze_master,
            "freeze a daemon": self._freeze_daemon,
            "cut a daemon off": self._cut_off,
            "reload": self._reload,
            "kill Redis": self._kill_redis,
            "freeze Redis": self._freeze_redis,
            "change the weather": self._change_weather,
            "cut connections": self._cut_connections,
            "flush scripts": self._flush_scripts,
        }

    def __enter__(self) -> Self:
        # A kill of the process loses nothing that was answered: with `everysec`, Redis may answer before it writes
        # while its disk is slow.
        self._stack.enter_context(self.redis)
        self.client = self._proxy("client")
        self.hosts = {target: self._host(target) for target in Target}
        self.direct = Store(Connection(self.redis.url), NAMESPACE, audited_scripts())
        self._stack.callback(self.direct.connection.close)
        for host in self.hosts.values():
            host.start()
        for host in self.hosts.values():
            host.daemon.wait_until_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _proxy(self, name: str) -> FaultyProxy:
        return self._stack.enter_context(
            FaultyProxy(self.redis.url, seed=random.Random(f"{self._seed} {name}").getrandbits(32))
        )

    def _host(self, target: Target) -> Host:
        logs = self._folder / target
        logs.mkdir()
        proxy = self._proxy(target)
        daemon = Daemon(proxy.url, NAMESPACE, _SETTINGS, program=chaos_daemon.program(logs)[0])
        self._stack.callback(daemon.remove)
        return Host(target, daemon, proxy, logs)

    @property
    def proxies(self) -> Collection[FaultyProxy]:
        """All networks."""
        return [self.client, *(host.proxy for host in self.hosts.values())]

    def last_words(self) -> str:
        """Where the daemons stand, and the ends of their logs."""
        told = [(host, host.daemon.status(), host.daemon.last_words()) for host in self.hosts.values()]
        return "\n".join(f"{host.target} {status}\n{words}" for host, status, words in told)

    def tracebacks(self) -> list[str]:
        """What no outage may bring about: an error in the daemons' own work."""
        lines = [line for host in self.hosts.values() for line in host.daemon.logs()]
        return [str(line) for line in lines if "exc_info" in line or "raw" in line]

    def keep_logs(self) -> None:
        """Put the daemons' logs beside those of their workers."""
        for host in self.hosts.values():
            shutil.copy(host.daemon.log_file, self._folder / f"{host.target}.log")

    # Striking

    def strike(self, blow: Blow) -> None:
        """Do it, if there is anything to do it to."""
        self._deeds[blow.kind](blow, self.hosts[blow.target])

    def undo_what_is_due(self, *, everything: bool = False) -> None:
        """Start again, thaw and heal what has been down, frozen or broken for long enough."""
        while self._undo and (everything or self._undo[0][0] <= time.monotonic()):
            heapq.heappop(self._undo)[2]()

    def heal(self) -> None:
        """Undo everything, and let nothing go wrong any more."""
        while self._undo:
            self.undo_what_is_due(everything=True)
            time.sleep(0.01)
        self.client.heal()
        for host in self.hosts.values():
            host.weather = Faults()
            host.refresh_network()

    def look(self) -> None:
        """A daemon that ended by itself is trouble, and is started again."""
        for host in self.hosts.values():
            if not (host.is_down or host.is_stopping or host.daemon.is_running):
                self.troubles.append(
                    f"a daemon ended by itself with {host.daemon.exit_code}:\n{host.daemon.last_words()}"
                )
                host.start()

    def _later(self, seconds: float, action: Callable[[], object]) -> None:
        heapq.heappush(self._undo, (time.monotonic() + seconds, next(self._order), action))

    # Workers

    def _kill_worker(self, blow: Blow, host: Host) -> None:
        workers = host.workers()
        for pid in workers[int(blow.chance * len(workers)) :][:1]:
            self._kill(host, "worker killed", [pid])

    def _kill_all_workers(self, _: Blow, host: Host) -> None:
        self._kill(host, "worker killed", host.workers())

    def _kill(self, host: Host, what: str, pids: Collection[int]) -> None:
        host.note(what, pids)
        for pid in pids:
            self.counts["workers killed"] += _send(pid, signal.SIGKILL)

    def _freeze_worker(self, blow: Blow, host: Host) -> None:
        workers = host.workers()
        for pid in workers[int(blow.chance * len(workers)) :][:1]:
            host.note(FROZEN, [pid], blow.lasts)
            self.counts["workers frozen"] += _send(pid, signal.SIGSTOP)
            self._later(blow.lasts, partial(_continue, pid))

    # Daemons

    def _kill_master(self, blow: Blow, host: Host) -> None:
        if not host.is_down:
            host.note("master killed", host.processes())
            host.daemon.kill()
            self.counts["masters killed"] += 1
            self._is_down(host, blow.lasts)

    def _kill_daemon(self, blow: Blow, host: Host) -> None:
        if not host.is_down:
            host.note("daemon killed", host.processes())
            host.daemon.kill_all()
            self.counts["daemons killed"] += 1
            self._is_down(host, blow.lasts)

    def _is_down(self, host: Host, lasts: float) -> None:
        host.is_down, host.is_stopping = True, False
        self._later(lasts, host.start)

    def _stop_daemon(self, blow: Blow, host: Host) -> None:
        if host.workers() and not host.is_stopping:
            host.is_stopping = True
            host.daemon.terminate()
            self.counts["daemons stopped"] += 1
            self._later(_AGAIN_SECONDS, lambda: self._await_end(blow, host))

    def _await_end(self, blow: Blow, host: Host) -> None:
        if not host.is_stopping:
            return  # it was killed meanwhile
        if host.daemon.is_running:
            self._later(_AGAIN_SECONDS, lambda: self._await_end(blow, host))
            return
        if host.daemon.exit_code:
            self.troubles.append(f"a daemon that was told to stop ended with {host.daemon.exit_code}")
        self._is_down(host, blow.lasts)

    def _freeze_master(self, blow: Blow, host: Host) -> None:
        """Its workers keep their leases themselves, so this explains nothing, and is not noted."""
        if not host.is_down:
            self.counts["masters frozen"] += _send(host.daemon.pid, signal.SIGSTOP)
            self._later(blow.lasts, partial(_continue, host.daemon.pid))

    def _freeze_daemon(self, blow: Blow, host: Host) -> None:
        if not host.is_down:
            pids = [host.daemon.pid, *host.processes()]
            host.note(FROZEN, pids, blow.lasts)
            for pid in pids:
                _send(pid, signal.SIGSTOP)
            self.counts["daemons frozen"] += 1
            self._later(blow.lasts, partial(_continue, *pids))

    def _cut_off(self, blow: Blow, host: Host) -> None:
        if not host.is_cut_off:
            host.note(CUT_OFF, None, blow.lasts)
            host.is_cut_off = True
            host.refresh_network()
            self.counts["daemons cut off"] += 1
            self._later(blow.lasts, lambda: self._reconnect(host))

    @staticmethod
    def _reconnect(host: Host) -> None:
        host.is_cut_off = False
        host.refresh_network()

    def _reload(self, _: Blow, host: Host) -> None:
        if host.workers():
            self.counts["reloads"] += _send(host.daemon.pid, signal.SIGHUP)

    # Redis and the networks

    def _kill_redis(self, blow: Blow, _: Host) -> None:
        if self.redis.running:
            self.redis.kill()
            self.counts["Redis killed"] += 1
            self._later(blow.lasts, self.redis.start)

    def _freeze_redis(self, blow: Blow, _: Host) -> None:
        if self.redis.running:
            self.redis.freeze()
            self.counts["Redis frozen"] += 1
            self._later(blow.lasts, self._thaw_redis)

    def _thaw_redis(self) -> None:
        if self.redis.running:
            self.redis.cont()

    def _change_weather(self, blow: Blow, host: Host) -> None:
        weather = _weighted(WEATHER, blow.chance)
        self.client.inject(weather)
        host.weather = _OF_HOSTS.get(weather, weather)
        host.refresh_network()

    def _cut_connections(self, _: Blow, host: Host) -> None:
        host.proxy.cut()
        self.client.cut()

    def _flush_scripts(self, _: Blow, __: Host) -> None:
        with suppress(QueueUnavailable):
            self.direct.connection.once(lambda client: client.script_flush())


def _send(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _continue(*pids: int) -> None:
    for pid in pids:
        _send(pid, signal.SIGCONT)


def _weighted(weights: dict[Faults, int], chance: float) -> Faults:
    left = chance * sum(weights.values())
    for each, weight in weights.items():
        left -= weight
        if left < 0:
            return each
    return next(reversed(weights))
