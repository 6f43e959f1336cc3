"""The reference model: what the scripts have to do, on plain Python objects, with the methods of `Store`.

It predicts everything but ties between users (the scripts dither), so `pop` checks a given choice and follows it.
Accounts are compared after each call and then taken over, so the dithers never add up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import orjson

from fairqued.errors import DuplicateTask, FairquedError, LateClaim, WorkerGone
from fairqued.keys import base_queue, hidden_queue
from fairqued.state import FINAL_STATES, Reason, TaskState
from fairqued.store import Ended, Finished, NewTask, Tick
from tests.support.fair_model import DEFAULT_LEAD_US
from tests.support.model_state import ModelState, ModelTask, ModelWorker, Terms

PROMOTED_BY_POP, PUT_BACK_BY_HEARTBEAT, JUDGED_BY_TICK = 16, 100, 10
TIE_US = 16.0
"""Dithers are below 1 µs each; this many microseconds apart, two ranks are a tie."""


class Model(ModelState):
    """The scripts, one method each."""

    # Clients

    def push(self, nonce: bytes, if_exists: str, tasks: Sequence[NewTask]) -> list[str]:
        statuses = [self._look_up(new, nonce, if_exists) for new in tasks]
        fresh = [(index, new) for index, new in enumerate(tasks) if statuses[index] in ("new", "replace")]
        for index, new in fresh:
            if statuses[index] == "replace":
                self._take_out(self.tasks[new.task_id])
        for index, new in fresh:
            statuses[index] = self._accept(new, nonce, index)
        self._flush()
        return statuses

    def _look_up(self, new: NewTask, nonce: bytes, if_exists: str) -> str:
        task, tombstone = self.tasks.get(new.task_id), self.tombstones.get(new.task_id)
        if task is None and tombstone is None:
            return "new"
        last = task.nonce if task else tombstone[0] if tombstone else None
        if nonce == last or (new.task_id, nonce) in self.spent:
            return "already"
        if if_exists == "ignore":
            return "exists"
        is_waiting = task is not None and task.state in (TaskState.QUEUED, TaskState.SCHEDULED)
        if if_exists == "replace" and is_waiting and (new.task_id, nonce) not in self.refused:
            return "replace"
        if if_exists == "replace":
            self.refused.add((new.task_id, nonce))
        raise DuplicateTask

    def _accept(self, new: NewTask, nonce: bytes, index: int) -> str:
        number = int(new.due[1:] or 0)
        due = (number if new.due.startswith("@") else self.now + number) + index
        old = self.tasks.get(new.task_id)
        self.lives += 1
        task = ModelTask(new, nonce, due, TaskState.SCHEDULED, self.lives)
        if old:
            task.fence, task.settled = old.fence, old.settled
            self.spent.add((old.task_id, old.nonce))
        self.tasks[new.task_id] = task
        if due <= self.now + index:
            self._queue(task)
        return task.state.value

    def cancel(self, task_ids: Sequence[str], nonce: bytes) -> list[str]:
        statuses = [self._cancel(task_id, nonce) for task_id in task_ids]
        self._flush()
        return statuses

    def _cancel(self, task_id: str, nonce: bytes) -> str:
        task = self.tasks.get(task_id)
        if task is None:
            return "missing"
        if task.state in FINAL_STATES:
            return "cancelled" if task.state is TaskState.CANCELLED else "final"
        if task.cancel_asked:
            return "asked"
        if (task_id, nonce) in self.spent:
            return "cancelled"
        self.spent.add((task_id, nonce))
        if task.state is TaskState.STARTED:
            task.cancel_asked = True
            return "asked"
        self._take_out(task)
        self._end(task, TaskState.CANCELLED)
        return "cancelled"

    def retry(self, nonce: bytes, task_ids: Sequence[str]) -> list[str]:
        statuses = [self._retry(nonce, task_id) for task_id in task_ids]
        self._flush()
        return statuses

    def _retry(self, nonce: bytes, task_id: str) -> str:
        task = self.tasks.get(task_id)
        if task is None:
            return "missing"
        if task.nonce == nonce or (task_id, nonce) in self.spent:
            return "already"
        if task.state not in (TaskState.FAILED, TaskState.CANCELLED) or task.reason is Reason.CORRUPT:
            return "refused"
        self.spent.add((task_id, task.nonce))
        task.nonce, task.due, task.ended_at = nonce, self.now, 0.0
        task.cancel_asked, task.reason = False, None
        task.failures = task.suspicion = task.crashes = task.losses = 0
        task.is_hidden = False
        self._queue(task)
        return "queued"

    # Workers

    def register(self, worker: str, lease_us: int, _info: bytes, _functions: Mapping[str, bytes]) -> bool:
        if worker in self.dead:
            raise WorkerGone
        if worker in self.workers:
            return False
        self.handles += 1
        self.workers[worker] = ModelWorker(self.handles)
        self.leases[worker] = self.now + lease_us
        return True

    def exchange(  # noqa: PLR0913, PLR0917 - the signature of Store.exchange
        self,
        worker: str,
        finished: Sequence[Finished],
        ended: Sequence[Ended],
        claim: int | None,
        most: int,
        queues: Sequence[str],
    ) -> tuple[list[str], Any]:
        """Three scripts in a row: what one refuses, the next may still do."""
        refusals: list[FairquedError] = []

        def attempt(call: Callable[[], Any]) -> Any:
            try:
                return call()
            except FairquedError as error:
                refusals.append(error)

        statuses = [attempt(lambda: self.finish(worker, finished))] if finished else []
        statuses += [attempt(lambda: self.fail(worker, ended))] if ended else []
        popped = attempt(lambda: self.pop(worker, claim, most, queues)) if claim is not None else None
        if refusals:
            raise refusals[0]
        return [status for each in statuses for status in each], popped

    def finish(self, worker: str, finished: Sequence[Finished]) -> list[str]:
        self._registered(worker)
        statuses = [self._complete(worker, each.task_id, each.fence, self._finish) for each in finished]
        self._unpark_who_may_run()
        self._flush()
        return statuses

    def fail(self, worker: str, ended: Sequence[Ended]) -> list[str]:
        self._registered(worker)
        statuses = [self._complete(worker, e.task_id, e.fence, partial(self._fail, ended=e)) for e in ended]
        self._unpark_who_may_run()
        self._flush()
        return statuses

    def _complete(self, worker: str, task_id: str, fence: int, end: Callable[[ModelTask], None]) -> str:
        status = self._judge(worker, task_id, fence)
        if status != "held":
            return status
        task = self.tasks[task_id]
        end(task)
        return task.state.value

    def _judge(self, worker: str, task_id: str, fence: int) -> str:
        task = self.tasks.get(task_id)
        if task and task.state is TaskState.STARTED and (task.worker, task.fence) == (worker, fence):
            return "held"
        return "already" if task and 0 < fence == task.settled else "stale"

    def _finish(self, task: ModelTask) -> None:
        self._settle(task)
        self._end(task, TaskState.CANCELLED if task.cancel_asked else TaskState.FINISHED)
        if task.state is TaskState.FINISHED:
            self.finished.append(task.task_id)

    def pop(self, worker: str, claim: int, most: int, queues: Sequence[str]) -> tuple[float | None, list[str]]:
        registered = self._registered(worker)
        if claim < registered.claim:
            raise LateClaim
        if claim == registered.claim:
            return None, sorted((t.task_id for t in self.held(worker) if t.claim == claim), key=str.encode)
        registered.claim = claim
        next_due = self._promote_due(PROMOTED_BY_POP)[1]
        started: list[str] = []
        for queue in queues:
            while len(started) < most and self._candidates(queue):
                assert len(self.served) > len(started), f"someone could be served in {queue}, but nobody was"
                self._start(queue, self.tasks[self.served[len(started)]], worker, claim)
                started.append(self.served[len(started)])
        self._flush()
        return next_due, started

    def _candidates(self, queue: str) -> dict[str, float]:
        """Users who may be served in a queue, and their ranks."""
        users = {user for (of, user) in self._places() if of == queue}
        return {user: self._rank(queue, user) for user in users if self._may_run(user)}

    def _rank(self, queue: str, user: str, weight: float | None = None) -> float:
        account = self._account((base_queue(queue), user))
        has_critical = any(task.is_critical for task in self._waiting((queue, user)))
        lead = float(self.defaults.get("critical_lead", DEFAULT_LEAD_US)) if has_critical else 0.0
        return account.rank(weight or self.limits_of(user).weight, lead)

    def _last_rank(self, queue: str, user: str) -> float:
        """How far behind a user may stand: a lead is given by the weight of that time, and stays as it is."""
        return self._rank(queue, user, max(self.weights[user], self.limits_of(user).weight))

    def _start(self, queue: str, task: ModelTask, worker: str, claim: int) -> None:
        ranks = self._candidates(queue)
        user = task.new.user_id
        assert task.place in self._places(), f"{task.task_id} does not wait"
        assert task.waits_in == queue, f"{task.task_id} of {task.waits_in} was served before {queue} was empty"
        assert user in ranks, f"{user} may not run"
        behind = min(self._last_rank(queue, other) for other in ranks)
        assert ranks[user] <= behind + TIE_US, f"{user} was served out of turn: {ranks}"
        first = min(self._waiting(task.place), key=lambda task: task.order)
        assert first is task, f"{task.task_id} was served before {first.task_id}"
        account, domain = self._account(task.account), self._domain(task.new.queue)
        domain.clock = max(domain.clock, ranks[user])
        account.start(self.running_in(task.account), self.limits_of(user).weight)
        task.state, task.worker, task.claim, task.started_at = TaskState.STARTED, worker, claim, self.now
        task.fence += 1
        task.attempts += 1

    def heartbeat(self, worker: str, lease_us: int, claim: int, held: Mapping[str, int]) -> list[tuple[str, str]]:
        self._registered(worker)
        self.leases[worker] = self.now + lease_us
        orders = [(self._order(worker, task_id, fence), task_id) for task_id, fence in held.items()]
        unknown = [task for task in self.held(worker) if task.claim <= claim and task.task_id not in held]
        for task in unknown[:PUT_BACK_BY_HEARTBEAT]:
            self._release(task, "unknown")
        self._unpark_who_may_run()
        self._flush()
        return [order for order in orders if order[0]]

    def _order(self, worker: str, task_id: str, fence: int) -> str:
        match self._judge(worker, task_id, fence):
            case "stale":
                return "gone"
            case "held" if self.tasks[task_id].cancel_asked:
                return "cancel"
        return ""

    # Masters

    def reclaim(  # noqa: PLR0913 - the signature of Store.reclaim
        self, worker: str, why: str, most: int, *, max_crashes: int, error: bytes, wills: Sequence[Ended]
    ) -> tuple[int, int]:
        answer = self._release_worker(worker, why, most, Terms(max_crashes, error, wills))
        self._unpark_who_may_run()
        self._flush()
        return answer

    def tick(
        self, lease_us: int, silence_us: int, living: Sequence[str], queues: Sequence[str], most: int = 500
    ) -> Tick:
        judged = self.ticked is None or abs(self.now - self.ticked) <= silence_us
        self.ticked = self.now
        put_back, lost = 0, []
        renewed = living if judged else [*living, *(w for w, end in self.leases.items() if end > 0)]
        self.leases |= {worker: self.now + lease_us for worker in renewed if worker in self.workers}
        expired = sorted((end, worker.encode(), worker) for worker, end in self.leases.items() if end <= self.now)
        for *_, worker in expired[:JUDGED_BY_TICK] if judged else []:
            if put_back < most:
                put_back += self._release_worker(worker, "lost", most - put_back)[0]
                lost.append(worker)
        self.dead = {worker: until for worker, until in self.dead.items() if until > self.now}
        self._unpark_who_may_run()
        self._flush()
        self._forget_idle()
        with_ready_work = {queue for queue, _ in self._places() - self.parked}
        return Tick(judged, put_back, lost, [queue for queue in queues if hidden_queue(queue) in with_ready_work])

    def promote(self, most: int = 500) -> tuple[int, float | None]:
        answer = self._promote_due(most)
        self._flush()
        return answer

    def trim(
        self, finished: tuple[int, int], failed: tuple[int, int], dedup_us: int, dedup_own_us: int, most: int = 500
    ) -> tuple[int, int]:
        ended = {
            state: sorted((t.ended_at, t.task_id.encode(), t.task_id) for t in self.tasks.values() if t.state is state)
            for state in (TaskState.CANCELLED, TaskState.FAILED)
        }
        keep = {False: dedup_us, True: dedup_own_us}
        dropped = self._drop(self.finished, *finished, most, keep)
        dropped += self._drop([row[2] for row in ended[TaskState.CANCELLED]], *finished, most, keep)
        dropped += self._drop([row[2] for row in ended[TaskState.FAILED]], *failed, most, keep)
        self.finished = [task_id for task_id in self.finished if task_id in self.tasks]
        expired = sorted((due, i.encode(), i) for i, (_, due) in self.tombstones.items() if due <= self.now)[:most]
        for *_, task_id in expired:
            del self.tombstones[task_id]
        return dropped, len(expired)

    def _drop(self, ids: Sequence[str], age: int, most_kept: int, most: int, keep: Mapping[bool, int]) -> int:
        dropped = 0
        for task_id in ids[:most]:
            task = self.tasks[task_id]
            if dropped >= len(ids) - most_kept and task.ended_at + age > self.now:
                break
            until = task.ended_at + keep[task.new.has_own_id]
            if until > self.now:
                self.tombstones[task_id] = task.nonce, until
            del self.tasks[task_id]
            dropped += 1
        return dropped

    def configure(self, digest: str, meta: Mapping[str, Any], users: Mapping[str, bytes]) -> bool:
        is_new = digest != self.digest
        if is_new:
            self.digest = digest
            self.defaults |= meta
            decoded = {user: orjson.loads(limits) for user, limits in users.items()}
            for user in {*self.limits, *decoded}:
                self.weights[user] = max(self.weights[user], self.limits_of(user).weight)
            self.limits = {user: {name: each["value"] for name, each in own.items()} for user, own in decoded.items()}
        for user in {user for _, user in self.parked}:
            self._unpark(user)
        self._flush()
        return is_new
