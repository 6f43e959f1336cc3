"""A chaos run: two real daemons under load, while workers, masters, Redis and the network fail; and what came of it."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

from fairqued.doctor.fsck import fsck
from fairqued.queue import TaskQueue
from fairqued.store import Store
from tests.support.audit import audited_scripts
from tests.support.chaos_fates import fates_of
from tests.support.chaos_field import NAMESPACE, Field
from tests.support.chaos_footprint import Footprint, Growth, count_keys
from tests.support.chaos_plan import Blow, Target, plan
from tests.support.hammer import Outcome
from tests.support.hammer_evidence import gather
from tests.support.hammer_producer import Producer
from tests.support.hammer_verdict import Verdict
from tests.support.proxy import Counts
from tests.support.wait import wait_until

LATE = 60
_DRAIN_SECONDS = 180
_PRACTICE_TASKS = 40
_TRY_SECONDS = 1.0
_SURPLUS = 1.03
"""So many more tasks than are asked for: some enqueues fail for good."""
_SAY_EACH_SECONDS = 10.0
_SHOWN_AT_MOST = 5

Say = Callable[[str], None]


@dataclass(frozen=True)
class Report:
    """What is to be said at the end; without problems the run has proved what it was to prove."""

    verdict: Mapping[str, str]
    problems: list[str]

    def lines(self) -> Iterator[str]:
        """A line for each thing that was counted, then the problems."""
        width = max(map(len, self.verdict))
        yield from (f"  {name:<{width}}  {value}" for name, value in self.verdict.items())
        yield from (f"PROBLEM: {problem}" for problem in self.problems)


def run(folder: Path, *, seconds: float, tasks: int, seed: int, say: Say) -> Report:
    """Strike for so long while so many tasks are enqueued, let everything end, and judge.

    If anything is wrong, the logs are in `folder` afterwards.
    """
    with Field(folder, seed) as field:
        try:
            return Chaos(field, seconds=seconds, tasks=tasks, seed=seed, say=say).run()
        except BaseException as error:
            error.add_note(field.last_words())
            field.keep_logs()
            raise


class Chaos:
    """One run on a field."""

    def __init__(self, field: Field, *, seconds: float, tasks: int, seed: int, say: Say) -> None:
        self._field, self._seconds, self._tasks, self._say = field, seconds, tasks, say
        self._blows = plan(seed, seconds)
        self._steady = field.hosts[Target.STEADY]
        queue = TaskQueue(field.client.url, namespace=NAMESPACE, timeout_seconds=_TRY_SECONDS)
        queue._store = Store(queue._store.connection, NAMESPACE, audited_scripts())
        self._queue = queue
        self._producer = Producer(queue, self._has_room, random.Random(f"{seed} producer"), seconds_of)
        self._began_at = time.monotonic()

    def run(self) -> Report:
        """From a field at rest to a field at rest."""
        keys = count_keys(self._field.direct, workers=False)
        self._practise()
        before = Footprint.of(self._steady.daemon.pid)
        self._strike()
        self._drain()
        after = self._settle(before)
        ends = list(self._stop())
        verdict = Verdict(gather(self._outcome(), self._field.direct))
        unsound = fsck(self._field.direct.connection.client, NAMESPACE)
        growth = Growth(before, after, keys, self._keys_left(keys))
        troubles = [*ends, *self._field.troubles, *self._field.tracebacks()[:_SHOWN_AT_MOST]]
        problems = [*verdict.problems, *unsound, *growth.problems(), *troubles]
        if problems:
            self._field.keep_logs()
        return Report(_told(verdict, unsound, growth), problems)

    # Tasks

    def _has_room(self, made: int) -> bool:
        elapsed = time.monotonic() - self._began_at
        return made < _SURPLUS * self._tasks * min(1.0, elapsed / self._seconds)

    def _practise(self) -> None:
        """Let the steady master do once what it will do often, so that what it loads for that is no leak."""
        tasks = self._producer.enqueue_plain(_PRACTICE_TASKS)
        for kind in ("kill a worker", "reload"):
            self._field.strike(Blow(0, kind, Target.STEADY, 0, 0))
        wait_until(lambda: all(self._queue.get(task_id).state.is_final for task_id in tasks), LATE, "practice is over")
        wait_until(self._is_at_rest, LATE, "the workers are replaced")

    def _is_at_rest(self) -> bool:
        status = self._steady.daemon.status()
        return status["rollout"]["left"] == 0 and all(each["phase"] == "ready" for each in status["workers"])

    # The run

    def _strike(self) -> None:
        self._began_at = time.monotonic()
        self._producer.start()
        try:
            self._strike_as_planned()
        finally:
            self._producer.stop()
        for error in self._producer.errors:
            raise error

    def _strike_as_planned(self) -> None:
        say_at, blows = 0.0, iter(self._blows)
        blow = next(blows, None)
        while (elapsed := time.monotonic() - self._began_at) < self._seconds and not self._producer.errors:
            while blow and blow.at <= elapsed:
                self._field.strike(blow)
                blow = next(blows, None)
            self._field.undo_what_is_due()
            self._field.look()
            if elapsed >= say_at:
                self._say(self._progress(elapsed))
                say_at += _SAY_EACH_SECONDS
            time.sleep(0.01)

    def _progress(self, elapsed: float) -> str:
        done = ", ".join(f"{number} {what}" for what, number in sorted(self._field.counts.items()))
        return f"{elapsed:5.0f} s  {len(self._producer.tasks):,} tasks enqueued  {done}"

    def _drain(self) -> None:
        self._say("      the faults are over; waiting for the last tasks")
        self._field.heal()
        for host in self._field.hosts.values():
            host.daemon.wait_until_ready()
        wait_until(self._is_drained, _DRAIN_SECONDS, "every task ends once the faults are over")

    def _is_drained(self) -> bool:
        time.sleep(0.1)
        client, keys = self._field.direct.connection.client, self._field.direct.keys
        waiting = client.hlen(keys.of("depth")) + client.zcard(keys.of("scheduled"))
        running = any(row[2] for row in self._field.direct.stats(0)[4])
        late = any(proxy.counts.copies_pending for proxy in self._field.proxies)
        return not (waiting or running or late)

    def _settle(self, before: Footprint) -> Footprint:
        """Give what is under way the time to end."""
        wait_until(self._is_at_rest, LATE, "the workers are replaced")
        with suppress(AssertionError):  # that it did not shrink is reported by the caller
            wait_until(lambda: not list(self._footprint().growth(before)), 10, "the master is as it was")
        return self._footprint()

    def _footprint(self) -> Footprint:
        return Footprint.of(self._steady.daemon.pid)

    def _outcome(self) -> Outcome:
        counts = Counts()
        for proxy in self._field.proxies:
            for each in fields(Counts):
                setattr(counts, each.name, getattr(counts, each.name) + getattr(proxy.counts, each.name))
        fates = {worker_id: fate for host in self._field.hosts.values() for worker_id, fate in fates_of(host).items()}
        return Outcome(self._producer.tasks, fates, counts, self._field.counts)

    def _keys_left(self, before: Counter[str]) -> Counter[str]:
        with suppress(AssertionError):  # what is left is reported by the caller
            wait_until(lambda: count_keys(self._field.direct) <= before, LATE, "idle users are forgotten")
        return count_keys(self._field.direct)

    def _stop(self) -> Iterator[str]:
        self._queue.close()
        for host in self._field.hosts.values():
            host.daemon.terminate()
        for host in self._field.hosts.values():
            if code := host.daemon.wait():
                yield f"the {host.target} daemon ended with {code}"


def _told(verdict: Verdict, unsound: list[str], growth: Growth) -> Mapping[str, str]:
    return {
        **{name: f"{number:,}" for name, number in verdict.tally().items()},
        "explained by": verdict.causes(),
        "in numbers": verdict.numbers(),
        "fsck": f"{len(unsound)} findings" if unsound else "clean",
        **growth.told(),
    }


def seconds_of(chance: random.Random) -> float:
    """How long a task takes: most hardly any time, few some seconds. The user who may run two at once keeps up."""
    match chance.random():
        case lot if lot < 0.85:
            return chance.uniform(0, 0.02)
        case lot if lot < 0.97:
            return chance.uniform(0.05, 0.5)
        case _:
            return chance.uniform(0.5, 4)
