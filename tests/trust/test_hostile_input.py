"""Whatever clients send, tasks do or strangers write into Redis: a clear error, and everything else goes on (G13).

One daemon, which logs as text, serves all these tests; its worker has to outlive them.
"""

import signal
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fairqued import InvalidTask, PayloadTooLarge, Reason, Task, TaskFailed, TaskHandle, TaskQueue, TaskState
from fairqued.doctor.fsck import fsck
from fairqued.doctor.snapshot import read_snapshot
from fairqued.record import HEADER
from fairqued.store import NewTask
from fairqued.tasks import MAX_SPEC_BYTES
from tests.support import hostile_tasks
from tests.support.daemon import LATE, Daemon
from tests.support.hostile_tasks import RESULTS, echo, fall, give, whose
from tests.support.process_tasks import hold
from tests.support.servers import RedisServer
from tests.support.wait import wait_until
from tests.unit.test_validation import REFUSED, WELCOME

pytestmark = pytest.mark.process

THREADS = 4
MODULE = hostile_tasks.__name__


@pytest.fixture(scope="module")
def daemon(redis_server: RedisServer) -> Iterator[Daemon]:
    daemon = Daemon(
        redis_server.url, f"test-{uuid.uuid4().hex[:12]}",
        {"imports": ["tests.support.process_tasks", MODULE], "logging": {"format": "text"},
         "pools": [{"name": "main", "processes": 1, "threads": THREADS}]},
    )  # fmt: skip
    yield daemon.start_and_wait()
    log = daemon.log_file.read_bytes().decode()
    daemon.remove()
    assert log.replace("\n", "").isprintable(), "nothing in the log could move a cursor"
    assert [line for line in log.splitlines() if not line.startswith(("20", "    "))] == [], "nor pass for a record"


@pytest.fixture
def queue(daemon: Daemon) -> Iterator[TaskQueue]:
    workers = daemon.worker_pids()
    queue = daemon.queue()
    yield queue
    assert queue.enqueue(echo.task("alive")).result(LATE) == "alive"
    assert daemon.worker_pids() == workers
    queue.close()


def snapshot(queue: TaskQueue) -> dict[str, Any]:
    return read_snapshot(queue._store.connection.client, queue.namespace).values


def failure(handle: TaskHandle[Any]) -> TaskFailed:
    with pytest.raises(TaskFailed) as caught:
        handle.result(LATE)
    return caught.value


# Ids


def test_any_text_is_an_id_all_the_way(queue: TaskQueue) -> None:
    handles = {
        text: queue.enqueue(whose.task(), task_id=text, user_id=text, meta={text: text}) for text in WELCOME.values()
    }
    assert {text: handle.result(LATE) for text, handle in handles.items()} == {text: [text, text] for text in handles}
    for text, handle in handles.items():
        info = queue.get(text)
        assert (info.task_id, info.user_id, info.meta) == (text, text, {text: text})
        assert handle.retry() is False
    assert fsck(queue._store.connection.client, queue.namespace) == []


def test_twins_in_unicode_are_two(queue: TaskQueue) -> None:
    one, other = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    waiting = [
        queue.enqueue(echo.task(text), task_id=f"twin {text}", user_id=f"twin {text}", delay_seconds=3600)
        for text in (one, other)
    ]
    assert [handle.task_id for handle in waiting] == [f"twin {one}", f"twin {other}"]
    assert waiting[0].cancel()
    assert [handle.state() for handle in waiting] == [TaskState.CANCELLED, TaskState.SCHEDULED]
    assert waiting[1].cancel()


@pytest.mark.parametrize(("value", "why"), REFUSED.values(), ids=REFUSED)
def test_a_bad_id_is_refused_before_anything_changed(queue: TaskQueue, value: Any, why: str) -> None:
    before = snapshot(queue)
    calls: list[Callable[[], object]] = [
        lambda: queue.get(value), lambda: queue.handle(value), lambda: queue.cancel(value), lambda: queue.retry(value),
    ]  # fmt: skip
    if value is not None:
        calls += [
            lambda: queue.enqueue(echo.task(1), task_id=value),
            lambda: queue.enqueue(echo.task(1), user_id=value),
        ]
    for call in calls:
        with pytest.raises(InvalidTask, match=why):
            call()
    assert snapshot(queue) == before


# Payloads


def test_a_task_may_be_as_large_as_is_allowed_and_no_larger(queue: TaskQueue) -> None:
    room = MAX_SPEC_BYTES - len(echo.task("").encode_spec())
    assert queue.enqueue(echo.task("x" * room)).result(LATE) == "x" * room
    before = snapshot(queue)
    for text in ("x" * (room + 1), "ü" * (room // 2 + 1)):
        with pytest.raises(PayloadTooLarge, match=r"take 26214[56] bytes, at most 262144 are allowed: store the data"):
            queue.enqueue(echo.task(text))
    with pytest.raises(PayloadTooLarge):
        queue.enqueue_many([echo.task("fits"), echo.task("x" * (room + 1))])
    assert snapshot(queue) == before


EXACT: list[Any] = [
    [], {}, [[]], [{}], {"a": []}, {"a": {}}, [[], {}], None, False, 0, 0.0, -0.0, 1e308, 5e-324, 0.1, 2**53 + 1,
    -(2**53) - 1, 2**63, 2**64 - 1, -(2**63), "", "\0", "\x1b[2J", "\u2028", "\N{FAMILY}", '"\\', "</script>", {"": 1},
    {"\0": "\n"}, {"sig": "x"}, {"__class__": "os.system"}, {"$ref": "#"}, ["é", "e\u0301"],
]  # fmt: skip


def test_values_come_back_exactly(queue: TaskQueue) -> None:
    handles = [queue.enqueue(echo.task(value)) for value in EXACT]
    for value, handle in zip(EXACT, handles, strict=True):
        result = handle.result(LATE)
        assert repr(result) == repr(value)
        assert repr(queue.get(handle.task_id).args) == repr([value])
    deep: Any = []
    for _ in range(98):
        deep = [deep]
    assert queue.enqueue(echo.task(deep)).result(LATE) == deep


@pytest.mark.parametrize("name", RESULTS)
def test_what_no_json_can_hold_goes_neither_in_nor_out(queue: TaskQueue, name: str) -> None:
    before = snapshot(queue)
    makers: list[Callable[[], Task[Any]]] = [lambda: echo.task(RESULTS[name]), lambda: Task(payload=RESULTS[name])]
    for make in makers:
        with pytest.raises(InvalidTask) as refusal:
            queue.enqueue(make())
        assert len(str(refusal.value)) < 300
    assert snapshot(queue) == before
    error = failure(queue.enqueue(give.task(name)))
    assert error.reason == Reason.ERROR
    assert error.message.startswith("the result")


# Exceptions


AWKWARD = {
    "surrogates": "\\udcff\\ud800 café",
    "escapes": "\x1b[31m\r\n2030-01-01 ERROR forged",
    "megabyte": "ü" * 2048,
    "recursion": "maximum recursion depth exceeded",
    "group": "many (200 sub-exceptions)",
    "chain": "499",
    "evil": "(its text cannot be shown: SystemExit)",
}


@pytest.mark.parametrize(("how", "message"), AWKWARD.items(), ids=AWKWARD)
def test_awkward_exceptions_are_told(queue: TaskQueue, how: str, message: str) -> None:
    error = failure(queue.enqueue(fall.task(how)))
    assert (error.reason, error.message) == (Reason.ERROR, message)
    assert len(error.traceback) < 10_000


# Records written by strangers


SPECS: dict[str, tuple[bytes, Reason]] = {
    "no JSON": (b'{"func"', Reason.CORRUPT),
    "no object": (b"[1]", Reason.CORRUPT),
    "zeros": (b"\0" * 50, Reason.CORRUPT),
    "nested 10,000 deep": (b'{"func":"%b:echo","args":[%b%b]}', Reason.CORRUPT),
    "nothing": (b"", Reason.BAD_ARGUMENTS),
    "a function that is a number": (b'{"func":5}', Reason.BAD_ARGUMENTS),
    "arguments that are a number": (b'{"func":"%b:echo","args":5}', Reason.BAD_ARGUMENTS),
    "named arguments that are a list": (b'{"func":"%b:echo","kwargs":[1]}', Reason.BAD_ARGUMENTS),
    "too many arguments": (b'{"func":"%b:echo","args":[1,2,3]}', Reason.BAD_ARGUMENTS),
    "meta that is a number": (b'{"func":"%b:echo","meta":5}', Reason.ERROR),
    "retries that are a word": (b'{"func":"%b:fall","args":["evil"],"max_retries":"x"}', Reason.ERROR),
    "a pause that is an object": (b'{"func":"%b:fall","args":["evil"],"max_retries":3,"backoff":{}}', Reason.ERROR),
    "a longest pause": (b'{"func":"%b:fall","args":["evil"],"max_retries":3,"backoff_max":"z"}', Reason.ERROR),
    "a time to live that is a word": (b'{"func":"%b:echo","args":[1],"result_ttl":"x"}', Reason.ERROR),
}  # fmt: skip


def spec_of(name: str) -> bytes:
    spec, module = SPECS[name][0], MODULE.encode()
    if name.startswith("nested"):
        return spec % (module, b"[" * 10_000, b"]" * 10_000)
    return spec.replace(b"%b", module)


def test_a_record_that_a_stranger_wrote_hurts_itself_alone(queue: TaskQueue, daemon: Daemon) -> None:
    gate = uuid.uuid4().hex
    busy = [queue.enqueue(hold.task(gate)) for _ in range(THREADS)]
    wait_until(lambda: all(handle.state() is TaskState.STARTED for handle in busy), LATE, "all slots are in use")
    neighbours = [queue.enqueue(echo.task(1))]
    for name in SPECS:
        written = NewTask(name, "alice", "default", 2, due="", has_own_id=False, spec=spec_of(name))
        queue._store.push(uuid.uuid4().bytes[:8], "raise", [written])
        neighbours.append(queue.enqueue(echo.task(name)))
    damaged = [queue.enqueue(echo.task(0)) for _ in DAMAGES]
    client, key_of = queue._store.connection.client, queue._store.keys.of
    for handle, damage in zip(damaged, DAMAGES.values(), strict=True):
        raw = client.get(key_of("task", handle.task_id))
        assert isinstance(raw, bytes)
        client.set(key_of("task", handle.task_id), damage(raw))
    foreign, hostile = b"\xff\xfe not UTF-8", b"\x1b]0;owned\x07\n2030-01-01 forged"
    for member in (foreign, hostile):
        whole = client.get(key_of("task", "no JSON"))
        assert isinstance(whole, bytes)
        client.set(key_of("task", "").encode() + member, whole)
        client.zadd(key_of("waiting", "default", "alice"), {member: 0})
    client.hincrby(key_of("counters"), "enqueued", 2)  # as push would have: other tests of this daemon add up
    neighbours.append(queue.enqueue(echo.task("last")))
    daemon.open_gate(gate)

    assert [handle.result(LATE) for handle in neighbours] == [1, *SPECS, "last"]
    for name, (_, reason) in SPECS.items():
        assert failure(queue.handle(name)).reason == reason, name
    for name, handle in zip(DAMAGES, damaged, strict=True):
        error = failure(handle)
        assert (error.reason, error.error_type) == (Reason.CORRUPT, "CorruptRecord"), name
    for member in (foreign, hostile):
        raw = client.get(key_of("task", "").encode() + member)
        assert isinstance(raw, bytes)
        assert HEADER.unpack_from(raw)[2] == b"x"


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "another magic": lambda raw: b"X" + raw[1:],
    "a state that is none": lambda raw: raw[:2] + b"?" + raw[3:],
    "a spec that is cut": lambda raw: raw[:-5],
    "a header that is cut": lambda raw: raw[:30],
    "another user": lambda raw: raw.replace(b"alice", b"alicf", 1),
    "a spec that is no JSON": lambda raw: raw.replace(b'{"func"', b'?"func"'),
    "all bytes flipped": lambda raw: bytes(byte ^ 0xFF for byte in raw),
}


# Configurations


BOMB = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))


def test_a_daemon_outlives_its_configuration(queue: TaskQueue, daemon: Daemon) -> None:
    whole = daemon.config.read_text()
    hostile = [BOMB, whole[: len(whole) // 2], "", "\0", "!!python/object/apply:os.system [id]", "a: " + "[" * 100_000]
    for number, content in enumerate(hostile, start=1):
        daemon.config.write_text(content)
        daemon.send(signal.SIGHUP)
        daemon.wait_for_message("the old configuration goes on", times=number)
    daemon.config.write_text(whole)
