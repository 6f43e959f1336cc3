"""The real scripts beside the reference model, as a Hypothesis state machine: any calls, repeated and late ones too."""

from __future__ import annotations

import itertools
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from fairqued.doctor.fsck import findings
from fairqued.doctor.snapshot import Snapshot
from fairqued.errors import FairquedError
from fairqued.keys import hidden_queue
from fairqued.record import Record, reason_number
from fairqued.state import Priority, Reason, TaskState
from fairqued.store import Ended, Exchanged, Finished, NewTask, Popped
from tests.support.comparison import compare
from tests.support.contract import reachable_moves
from tests.support.model import Model
from tests.support.simclock import Mutation
from tests.support.world import DEDUP_OWN_US, DEDUP_US, FOREVER_US, LEASE_US, SILENCE_US, World, limits, new_task

USERS, QUEUES = ("alice", "bob", "acme/carol"), ("default", "mail")
HIDDEN_QUEUES = tuple(hidden_queue(queue) for queue in QUEUES)
IDS = tuple(f"t{number}" for number in range(5))
MILLISECOND, SECOND, DAY = 1_000, 1_000_000, 86_400_000_000
MOST_WORKERS = 3

delays = st.sampled_from([0, MILLISECOND, SECOND, 30 * SECOND, 200 * SECOND])
durations = st.sampled_from([0, MILLISECOND, 20 * MILLISECOND, 300 * MILLISECOND, SECOND, 4 * SECOND, 16 * SECOND, DAY])
queue_lists = st.sampled_from([("default",), ("mail",), QUEUES, ("mail", "default"), HIDDEN_QUEUES])
reasons_of_reclaim = st.sampled_from(["death", "death", "crash", "lost", "drain"])
numbers_of_tasks = st.sampled_from([1, 1, 2, 3, 8])
numbers_of_new_tasks = st.dictionaries(
    st.tuples(st.sampled_from(USERS), st.sampled_from(QUEUES)), st.integers(1, 3), max_size=3
)


@st.composite
def new_tasks(draw: st.DrawFn, task_id: str, now: float) -> NewTask:
    delay = draw(delays)
    due = draw(st.sampled_from(["", "", f"+{delay}", f"@{now + delay:.0f}", "@1"]))
    priority = draw(st.sampled_from([Priority.NORMAL, *Priority]))
    user, queue = draw(st.sampled_from(USERS)), draw(st.sampled_from(QUEUES))
    return NewTask(task_id, user, queue, int(priority), due, draw(st.booleans()), b'{"func":"f"}')


@st.composite
def completions(draw: st.DrawFn, held: list[tuple[str, int]]) -> tuple[list[Finished], list[Ended]]:
    finished, ended = [], []
    for task_id, fence in held:
        match draw(st.sampled_from(["run on", "finish", "finish", "retry", "fail", "hand_back"])):
            case "run on":
                pass
            case "finish":
                finished.append(Finished(task_id, fence, draw(st.sampled_from([b"", b"1"])), DAY))
            case what:
                number = reason_number(draw(st.sampled_from(Reason))) if what == "fail" else draw(delays)
                ended.append(Ended(task_id, fence, what, number, draw(st.sampled_from([b"", b"{}", b'{"a":1}']))))
    return finished, ended


limits_of_one = st.fixed_dictionaries(
    {},
    optional={
        "weight": st.sampled_from([0.5, 1, 4]),
        "max_running": st.sampled_from([0, 1, 2]),
        "paused": st.sampled_from([False, False, True]),
    },
)
limits_of_users = st.dictionaries(st.sampled_from(USERS), limits_of_one.map(lambda own: limits(**own)))


@dataclass(frozen=True)
class Call:
    """One call of a method of `Store`, to make again later."""

    method: str
    args: tuple[Any, ...]
    options: Mapping[str, Any]

    @property
    def scripts(self) -> tuple[str, ...]:
        return ("finish", "fail", "pop") if self.method == "exchange" else (self.method,)


class QueueMachine(RuleBasedStateMachine):
    """Clients, workers and masters of one namespace. Subclasses say on which server, with which faults."""

    url: ClassVar[str]
    mutations: ClassVar[tuple[Mutation, ...]]

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.url, uuid.uuid4().hex[:12], *self.mutations)
        self.model = Model(now=self.world.clock.now)
        self.past: list[Call] = []
        self.grants: list[tuple[str, str, int]] = []
        self.completions: Counter[int] = Counter()
        self.workers = 0
        self.is_broken = False

    # What clients and operators do

    @initialize(users=limits_of_users)
    def a_daemon_starts(self, users: dict[str, bytes]) -> None:
        self.call("configure", self.world.nonce().hex(), {}, users)
        self.start_worker()
        self.start_worker()

    @rule(data=st.data(), if_exists=st.sampled_from(["raise", "ignore", "replace"]))
    def enqueue(self, data: st.DataObject, if_exists: str) -> None:
        ids = data.draw(st.lists(st.sampled_from(IDS), min_size=1, max_size=4, unique=True))
        tasks = [data.draw(new_tasks(task_id, self.model.now)) for task_id in ids]
        self.call("push", self.world.nonce(), if_exists, tasks)

    @precondition(lambda self: self.model.tasks)
    @rule(data=st.data(), method=st.sampled_from(["cancel", "retry"]))
    def cancel_or_retry(self, data: st.DataObject, method: str) -> None:
        ids = data.draw(
            st.lists(st.sampled_from(sorted(self.model.tasks.keys() | {"missing"})), min_size=1, max_size=3)
        )
        nonce = self.world.nonce()
        self.call(method, *((nonce, ids) if method == "retry" else (ids, nonce)))

    @rule(users=limits_of_users)
    def configure(self, users: dict[str, bytes]) -> None:
        self.call("configure", self.world.nonce().hex(), {}, users)

    # What workers do

    @precondition(lambda self: len(self.model.workers) < MOST_WORKERS)
    @rule()
    def start_worker(self) -> None:
        self.workers += 1
        self.call("register", f"w{self.workers}", LEASE_US, b"{}", {})

    @precondition(lambda self: self.model.workers)
    @rule(data=st.data(), most=numbers_of_tasks, queues=queue_lists)
    def fetch(self, data: st.DataObject, most: int, queues: tuple[str, ...]) -> None:
        worker = data.draw(st.sampled_from(sorted(self.model.workers)))
        self.call("exchange", worker, [], [], self.model.workers[worker].claim + 1, most, queues)

    @rule(data=st.data(), times=st.lists(durations, min_size=1, max_size=5), queues=queue_lists)
    def busy_spell(self, data: st.DataObject, times: list[int], queues: tuple[str, ...]) -> None:
        """In each round time goes on, tasks come in, some of those that run end, others are claimed."""
        if not self.model.workers:
            self.start_worker()
        for duration in times:
            self.time_goes_on(duration)
            self.enqueue_for_many(data.draw(numbers_of_new_tasks))
            worker = data.draw(st.sampled_from(sorted(self.model.workers)))
            finished, ended = data.draw(completions([(t.task_id, t.fence) for t in self.model.held(worker)]))
            claim = self.model.workers[worker].claim + 1
            self.call("exchange", worker, finished, ended, claim, data.draw(numbers_of_tasks), queues)

    def enqueue_for_many(self, numbers: dict[tuple[str, str], int]) -> None:
        for (user, queue), number in numbers.items():
            names = [f"{len(self.past)}-{n}" for n in range(number)]
            tasks = [new_task(name, user=user, queue=queue, has_own_id=True) for name in names]
            self.call("push", self.world.nonce(), "raise", tasks)

    @precondition(lambda self: self.grants)
    @rule(data=st.data())
    def complete_what_was_once_held(self, data: st.DataObject) -> None:
        worker, task_id, fence = data.draw(st.sampled_from(self.grants))
        anyone = data.draw(st.sampled_from([worker, worker, f"w{self.workers}"]))
        finished, ended = data.draw(completions([(task_id, fence)]).filter(any))
        self.call("exchange", anyone, finished, ended, None, 0, ())

    @precondition(lambda self: self.model.workers)
    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.model.workers)))
        once_held = [(task_id, fence) for of, task_id, fence in self.grants if of == worker]
        held = dict(data.draw(st.lists(st.sampled_from(once_held), max_size=4)) if once_held else [])
        held |= {t.task_id: t.fence for t in self.model.held(worker) if data.draw(st.integers(0, 3))}
        claim = data.draw(st.integers(0, self.model.workers[worker].claim))
        self.call("heartbeat", worker, LEASE_US, claim, held)

    # What masters do

    @rule(data=st.data(), why=reasons_of_reclaim, most=st.sampled_from([1, 2, 500]))
    def reclaim(self, data: st.DataObject, why: str, most: int) -> None:
        worker = data.draw(st.sampled_from([*sorted(self.model.workers), f"w{self.workers}", "w1"]))
        self.bury(worker, why, data.draw(st.integers(1, 3)), self.draw_wills(data, worker), most)

    @rule(data=st.data(), whys=st.lists(reasons_of_reclaim, min_size=1, max_size=4), queues=queue_lists)
    def workers_die_one_after_the_other(self, data: st.DataObject, whys: list[str], queues: tuple[str, ...]) -> None:
        """Each fetches what the one before it left; then what failed is revived."""
        for why in whys:
            self.start_worker()
            worker = f"w{self.workers}"
            self.call("exchange", worker, [], [], 1, data.draw(numbers_of_tasks), queues)
            self.bury(worker, why, 2, self.draw_wills(data, worker))
        failed = sorted(task.task_id for task in self.model.tasks.values() if task.state is TaskState.FAILED)
        self.call("retry", self.world.nonce(), failed)

    def draw_wills(self, data: st.DataObject, worker: str) -> list[Ended]:
        """Wills for some of what a worker holds or once held, perhaps of an attempt before."""
        grants = [(task_id, fence) for of, task_id, fence in self.grants if of == worker]
        drawn = data.draw(st.lists(st.sampled_from(grants), max_size=2, unique=True)) if grants else []
        older = data.draw(st.sampled_from([0, 0, 1]))
        return [will for task_id, fence in drawn for will in data.draw(completions([(task_id, fence - older)]))[1]]

    def bury(self, worker: str, why: str, max_crashes: int, wills: Sequence[Ended] = (), most: int = 500) -> None:
        self.call("reclaim", worker, why, most, max_crashes=max_crashes, error=b'{"type":"Crash"}', wills=wills)

    @rule(data=st.data(), most=st.sampled_from([1, 500]))
    def tick(self, data: st.DataObject, most: int) -> None:
        living = [worker for worker in sorted(self.model.workers) if data.draw(st.booleans())]
        self.call("tick", LEASE_US, SILENCE_US, living, QUEUES, most)

    @rule(
        finished=st.tuples(st.sampled_from([SECOND, FOREVER_US]), st.sampled_from([0, 1, FOREVER_US])),
        failed=st.tuples(st.sampled_from([SECOND, FOREVER_US]), st.sampled_from([0, 1, FOREVER_US])),
        most=st.sampled_from([1, 3, 500]),
    )
    def promote_and_trim(self, finished: tuple[int, int], failed: tuple[int, int], most: int) -> None:
        self.call("promote", most)
        self.call("trim", finished, failed, DEDUP_US, DEDUP_OWN_US, most)

    # What time and the network do

    @rule(duration=durations)
    def time_goes_on(self, duration: int) -> None:
        self.world.clock.set(self.world.clock.now + duration)

    @precondition(lambda self: self.past)
    @rule()
    def the_last_call_is_repeated(self) -> None:
        self.make(self.past[-1])

    @precondition(lambda self: self.past)
    @rule(data=st.data())
    def an_old_call_arrives_late(self, data: st.DataObject) -> None:
        method = data.draw(st.sampled_from(sorted({call.method for call in self.past})))
        self.make(data.draw(st.sampled_from([call for call in self.past if call.method == method])))

    # One call on both sides

    def call(self, method: str, *args: Any, **options: Any) -> None:
        self.past.append(Call(method, args, options))
        self.make(self.past[-1])

    def make(self, call: Call) -> None:
        self.is_broken = True
        self.model.now = self.world.clock.now
        before = {task_id: (task.life, task.state) for task_id, task in self.model.tasks.items()}
        answer = _answer(self.world.store, call)
        snapshot = self.world.snapshot()
        found = findings(snapshot)
        assert found == [], found
        self.model.served = _started(answer)
        assert _comparable(answer) == _comparable(_answer(self.model, call)), call
        self.take_over_parked(call, snapshot)
        compare(self.model, snapshot)
        self.check_moves(call, before)
        self.note_grants_and_completions(call, answer)
        self.is_broken = False

    def take_over_parked(self, call: Call, snapshot: Snapshot) -> None:
        """Which of the users who may not run a pop met, is its own affair."""
        if call.method == "exchange":
            assert self.model.parked <= snapshot.parked
            self.model.parked = set(snapshot.parked)

    def check_moves(self, call: Call, before: dict[str, tuple[int, TaskState]]) -> None:
        """The states changed as the headers of the scripts say."""
        allowed = reachable_moves(*call.scripts)
        for task_id, task in self.model.tasks.items():
            life, state = before.get(task_id, (0, None))
            move = (state.value if state and life == task.life else "new", task.state.value)
            assert move[0] == move[1] or move in allowed, f"{call.scripts}: {move} is in no header"

    def note_grants_and_completions(self, call: Call, answer: Any) -> None:
        if not isinstance(answer, Exchanged):
            return
        for task_id, status in answer.statuses:
            if status == "finished":
                self.completions[self.model.tasks[task_id].life] += 1
        for task_id, raw in answer.popped.tasks if answer.popped else []:
            self.grants.append((call.args[0], task_id, Record.parse(task_id, raw).fence))

    # The end

    def teardown(self) -> None:
        try:
            if not self.is_broken:
                self.drain()
                self.purge()
        finally:
            self.world.client.flushdb()
            self.world.close()

    def drain(self) -> None:
        """Whatever has happened: what was accepted ends, and is completed once."""
        self.call("configure", self.world.nonce().hex(), {}, {})
        for number in range(self.workers):
            self.bury(f"w{number + 1}", "death", max_crashes=1)
        self.start_worker()
        worker = f"w{self.workers}"
        queues = itertools.cycle([QUEUES, HIDDEN_QUEUES])
        while any(not task.state.is_final for task in self.model.tasks.values()):
            self.world.clock.set(self.world.clock.now + DAY)
            finished = [Finished(t.task_id, t.fence, b"1", 1000) for t in self.model.held(worker)]
            self.call("exchange", worker, finished, [], self.model.workers[worker].claim + 1, 500, next(queues))
        finished_lives = {t.life for t in self.model.tasks.values() if t.state is TaskState.FINISHED}
        assert finished_lives <= self.completions.keys()
        assert set(self.completions.values()) <= {1}
        assert self.world.snapshot().numbers("counters").get("finished", 0) == sum(self.completions.values())

    def purge(self) -> None:
        """Once all tasks are gone, nothing of them or their users is left."""
        self.bury(f"w{self.workers}", "drain", max_crashes=1)
        self.world.clock.set(self.world.clock.now + DAY)
        self.call("trim", (0, 0), (0, 0), DEDUP_US, DEDUP_OWN_US, 500)
        self.call("tick", LEASE_US, SILENCE_US, [], QUEUES, 500)
        left = {key for key in self.world.key_names() if not key.startswith(("bell:", "spent:"))}
        assert left <= {"meta", "counters"}


def _answer(side: Any, call: Call) -> Any:
    try:
        return getattr(side, call.method)(*call.args, **call.options)
    except FairquedError as refusal:
        return type(refusal)


def _started(answer: Any) -> list[str]:
    popped = answer.popped if isinstance(answer, Exchanged) else None
    return [task_id for task_id, _ in popped.tasks] if popped else []


def _comparable(answer: Any) -> Any:
    if isinstance(answer, Exchanged):
        return [status for _, status in answer.statuses], _comparable(answer.popped)
    if isinstance(answer, Popped):
        return answer.next_due_seconds, [task_id for task_id, _ in answer.tasks]
    return answer


def machine_on(url: str, *mutations: Mutation) -> type[QueueMachine]:
    """A machine for a server, whose scripts are perhaps broken on purpose."""
    return type("Machine", (QueueMachine,), {"url": url, "mutations": mutations})
