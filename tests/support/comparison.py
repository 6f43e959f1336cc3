"""Whether Redis holds what the reference model holds."""

from __future__ import annotations

import math
from typing import Any

from fairqued.record import Record
from tests.support import fair_model
from tests.support.model import TIE_US, Model
from tests.support.model_state import ModelTask, Place
from tests.support.snapshot import Account, Snapshot


def compare(model: Model, snapshot: Snapshot) -> None:
    """What Redis holds is what the model holds."""
    handles = {int(snapshot.hash("worker", worker)["handle"]): worker for worker in snapshot.rest_of("worker")}
    assert {i: _of_record(task, handles) for i, task in snapshot.tasks.items()} == {
        i: _of_model(task, model) for i, task in model.tasks.items()
    }
    assert {worker: {t.task_id: t.claim for t in model.held(worker)} for worker in snapshot.claims} == snapshot.claims
    assert {worker: int(snapshot.hash("worker", worker)["claim"]) for worker in handles.values()} == {
        worker: known.claim for worker, known in model.workers.items()
    }
    assert snapshot.zset("workers") == model.leases
    assert snapshot.zset("dead") == model.dead
    assert snapshot.list("finished") == model.finished
    assert snapshot.hash("tombstones") == {task_id: nonce for task_id, (nonce, _) in model.tombstones.items()}
    assert snapshot.parked == model.parked
    compare_accounts(model, snapshot)


def _of_record(task: Record, handles: dict[int, str]) -> tuple[Any, ...]:
    return (
        task.state, task.user_id, task.queue, task.priority, task.due, task.nonce, task.fence, task.settled,
        task.attempts, task.failures, task.suspicion, task.losses, task.cancel_asked, task.reason,
        handles.get(task.holder, "gone") if task.holder else "", task.ended_at,
    )  # fmt: skip


def _of_model(task: ModelTask, model: Model) -> tuple[Any, ...]:
    worker = task.worker if task.worker in model.workers or not task.worker else "gone"
    return (
        task.state, task.new.user_id, task.new.queue, task.new.priority, task.due, task.nonce, task.fence,
        task.settled, task.attempts, task.failures, task.suspicion, task.losses, task.cancel_asked, task.reason,
        worker, task.ended_at,
    )  # fmt: skip


def compare_accounts(model: Model, snapshot: Snapshot) -> None:
    """V and clocks agree to within the dithers; then the real ones are taken over."""
    for name in model.domains.keys() | snapshot.domains.keys():
        assert math.isclose(model.domains[name].clock, snapshot.domains[name].clock, rel_tol=0, abs_tol=TIE_US), name
        model.domains[name].clock, model.domains[name].largest = snapshot.domains[name][:2]
    for place in model.accounts.keys() | snapshot.accounts.keys():
        real, expected = snapshot.accounts.get(place), model.accounts.get(place)
        if real is None or expected is None:
            assert is_hardly_behind_the_clock(model, place, real), f"account of {place}: {real}, expected {expected}"
        else:
            weight, running = model.limits_of(place[1]).weight, real.running
            touched = model_account(real)
            touched.accrue(model.now, running, weight)
            expected.accrue(model.now, running, weight)
            for name in ("v", "deposit", "estimate"):
                found, wanted = getattr(touched, name), getattr(expected, name)
                assert math.isclose(found, wanted, rel_tol=1e-9, abs_tol=TIE_US), f"{name} of {place}"
    model.accounts = {place: model_account(real) for place, real in snapshot.accounts.items()}


def model_account(real: Account) -> fair_model.Account:
    return fair_model.Account(real.touched, real.v, real.deposit, real.estimate)


def is_hardly_behind_the_clock(model: Model, place: Place, real: Account | None) -> bool:
    """Whether the dither alone decides if an idle account is dropped."""
    v = real.v if real else model.accounts[place].v
    return abs(v - model.domains[place[0]].clock) <= TIE_US
