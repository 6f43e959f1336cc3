"""Whether Redis holds what the reference model holds."""

from __future__ import annotations

import math
from typing import Any

from fairqued.doctor.snapshot import Account, Snapshot
from fairqued.record import Record
from tests.support import fair_model
from tests.support.model import TIE_US, Model
from tests.support.model_state import ModelTask, Place


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
        task.attempts, task.failures, task.suspicion, task.crashes, task.losses, task.is_hidden, task.cancel_asked,
        task.reason, task.error, handles.get(task.holder, "gone") if task.holder else "", task.ended_at,
    )  # fmt: skip


def _of_model(task: ModelTask, model: Model) -> tuple[Any, ...]:
    worker = task.worker if task.worker in model.workers or not task.worker else "gone"
    return (
        task.state, task.new.user_id, task.new.queue, task.new.priority, task.due, task.nonce, task.fence,
        task.settled, task.attempts, task.failures, task.suspicion, task.crashes, task.losses, task.is_hidden,
        task.cancel_asked, task.reason, task.error, worker, task.ended_at,
    )  # fmt: skip


def compare_accounts(model: Model, snapshot: Snapshot) -> None:
    """V and clocks agree to within the dithers; then the real ones are taken over."""
    clocks = {name: domain.clock for name, domain in model.domains.items()}
    clocks |= {name: domain.clock for name, domain in snapshot.domains.items()}
    for name in model.domains.keys() & snapshot.domains.keys():
        assert_near(model.domains[name].clock, snapshot.domains[name].clock, f"clock of {name}")
    for place in model.accounts.keys() | snapshot.accounts.keys():
        real, expected = snapshot.accounts.get(place), model.accounts.get(place)
        if real and expected:
            compare_account(model, place, model_account(real), expected)
        else:
            # The dither alone decided whether an idle account is kept.
            v = real.v if real else model.accounts[place].v
            assert_near(v, clocks[place[0]], f"account of {place}: {real}, expected {expected}: V against the clock")
    model.accounts = {place: model_account(real) for place, real in snapshot.accounts.items()}
    model.domains = {name: fair_model.Domain(real.clock, real.largest) for name, real in snapshot.domains.items()}


def compare_account(model: Model, place: Place, real: fair_model.Account, expected: fair_model.Account) -> None:
    for account in (real, expected):
        account.accrue(model.now, model.running_in(place), model.limits_of(place[1]).weight)
    for name in ("v", "deposit", "estimate"):
        assert_near(getattr(real, name), getattr(expected, name), f"{name} of {place}")


def model_account(real: Account) -> fair_model.Account:
    return fair_model.Account(real.touched, real.v, real.deposit, real.estimate)


def assert_near(found: float, expected: float, what: str) -> None:
    assert math.isclose(found, expected, rel_tol=1e-9, abs_tol=TIE_US), f"{what}: {found}, expected {expected}"
