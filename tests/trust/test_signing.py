"""G14: with signing keys a worker runs what a client with a key sent, unchanged, and nothing else."""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairqued import Reason, Task, TaskHandle, TaskQueue, TaskState
from fairqued.errors import BadSignature
from fairqued.lease import StartedTask
from fairqued.record import HEADER, SCHEMA_VERSION, STATE_CODES, Record
from fairqued.signing import Signer
from fairqued.state import Priority
from tests.support.daemon import CHECKOUT, LATE
from tests.trust.conftest import WriteKeys

OLD, NEW = b"an old secret, 16 bytes", b"a new secret, 16 bytes"
OLD_LINE, NEW_LINE = f"old: {OLD.decode()}", f"new: {NEW.decode()}"


def record(task_id: str, user_id: str, queue: str, spec: bytes) -> Record:
    """A record as a worker pops it."""
    user, state, priority = user_id.encode(), STATE_CODES[TaskState.STARTED].encode(), Priority.NORMAL
    header = HEADER.pack(
        b"F", SCHEMA_VERSION, state, 0, priority, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0.0, 0.0, 0.0, 0.0, b"", len(user),
        len(queue), 0, len(spec),
    )  # fmt: skip
    return Record.parse(task_id, header + user + queue.encode() + spec)


def problem(signer: Signer, *of: Any) -> str:
    """What is wrong with a record, '' if nothing is."""
    try:
        signer.check(record(*of))
    except BadSignature as error:
        return str(error)
    return ""


SIGNER = Signer("n", {"k": OLD})
SPEC = b'{"func":"a:b","args":[1,",\\"queue\\":\\"x\\",\\"sig\\":\\"k:' + b"A" * 43 + b'\\"}"]}'
SIGNED = SIGNER.sign("id", "alice", "mail", SPEC)


def test_a_signed_spec_is_the_spec_and_two_fields_more() -> None:
    plain = orjson.loads(SIGNED)
    key, _, mac = plain.pop("sig").partition(":")
    assert (plain.pop("queue"), key, len(mac)) == ("mail", "k", 43)
    assert plain == orjson.loads(SPEC)
    assert problem(SIGNER, "id", "alice", "mail", SIGNED) == ""
    assert len(SIGNED) - len(SPEC) < 80


@settings(deadline=None, max_examples=300)
@given(at=st.integers(0, len(SIGNED) - 1), flip=st.integers(1, 255))
def test_no_byte_can_be_changed(at: int, flip: int) -> None:
    changed = bytearray(SIGNED)
    changed[at] ^= flip
    assert problem(SIGNER, "id", "alice", "mail", bytes(changed))


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_nothing_can_be_cut_out_or_put_in(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(SIGNED)))
    end = data.draw(st.integers(start, len(SIGNED)))
    changed = SIGNED[:start] + data.draw(st.binary(max_size=60)) + SIGNED[end:]
    assert changed == SIGNED or problem(SIGNER, "id", "alice", "mail", changed)


WRONG = {
    "another id": (SIGNER, ("jd", "alice", "mail", SIGNED), "does not fit"),
    "another user": (SIGNER, ("id", "bob", "mail", SIGNED), "does not fit"),
    "a border moved": (SIGNER, ("ida", "lice", "mail", SIGNED), "does not fit"),
    "another namespace": (Signer("m", {"k": OLD}), ("id", "alice", "mail", SIGNED), "does not fit"),
    "another secret": (Signer("n", {"k": NEW}), ("id", "alice", "mail", SIGNED), "does not fit"),
    "another key": (Signer("n", {"l": OLD}), ("id", "alice", "mail", SIGNED), "the key k, which this worker does not"),
    "another queue": (SIGNER, ("id", "alice", "admin", SIGNED), "signed for the queue mail, and stands in admin"),
    "no signature": (SIGNER, ("id", "alice", "mail", SPEC), "is not signed, and this worker has signing keys"),
    "nothing": (SIGNER, ("id", "alice", "mail", b""), "is not signed"),
}


@pytest.mark.parametrize(("signer", "of", "why"), WRONG.values(), ids=WRONG)
def test_what_a_signature_is_not_good_for(signer: Signer, of: tuple[Any, ...], why: str) -> None:
    told = problem(signer, *of)
    assert why in told
    mac = signer._mac("l" if "l" in repr(signer) else "k", "id", "alice", SIGNED[: SIGNED.index(b',"sig":"')])
    assert mac.decode() not in told, "the signature that would have been right is not told"


def test_the_first_key_signs_and_each_is_good_for_checking() -> None:
    both, only_new = Signer("n", {"new": NEW, "old": OLD}), Signer("n", {"new": NEW})
    by_old, by_both = Signer("n", {"old": OLD}).sign("i", "u", "q", SPEC), both.sign("i", "u", "q", SPEC)
    assert b'"sig":"new:' in by_both
    assert problem(both, "i", "u", "q", by_old) == problem(both, "i", "u", "q", by_both) == ""
    assert problem(only_new, "i", "u", "q", by_both) == ""
    assert "is signed with the key old, which" in problem(only_new, "i", "u", "q", by_old)


def test_secrets_are_in_no_repr() -> None:
    assert "secret" not in repr(Signer("n", {"k": OLD}))


# Through Redis


@pytest.fixture
def client(redis_url: str, namespace: str, write_keys: WriteKeys) -> Iterator[TaskQueue]:
    """A client that signs with the old key."""
    keys = write_keys(OLD_LINE, name="client")
    client = TaskQueue(redis_url, namespace=namespace, user_id="alice", signing_keys_file=keys)
    yield client
    client.close()


def rewrite(queue: TaskQueue, handle: TaskHandle[Any], old: bytes, new: bytes) -> None:
    """Change a record by hand, keeping its length."""
    redis, key = queue._store.connection.client, queue._store.keys.of("task", handle.task_id)
    raw = redis.get(key)
    assert isinstance(raw, bytes)
    assert raw.count(old) == 1
    assert len(old) == len(new)
    redis.set(key, raw.replace(old, new))


def run_all(queue: TaskQueue) -> list[StartedTask]:
    """Finish all that a worker with the keys of `queue` starts."""
    with queue.lease() as lease:
        started = lease.dequeue(50)
        for each in started:
            lease.finish_task(each, each.payload)
    return started


def failure(queue: TaskQueue, handle: TaskHandle[Any]) -> tuple[Reason | None, str | None, str]:
    info = queue.get(handle.task_id)
    assert info.state is TaskState.FAILED
    return info.reason, info.error_type, info.error_message or ""


def test_forged_tasks_fail_and_their_neighbours_run(
    client: TaskQueue, redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = TaskQueue(redis_url, namespace=namespace, user_id="alice")
    first = client.enqueue(Task(payload="pay bob 1"))
    forged = client.enqueue(Task(payload="pay bob 2"))
    unsigned = stranger.enqueue(Task(payload="pay eve 3"))
    last = client.enqueue(Task(payload="pay bob 4"))
    rewrite(stranger, forged, b"pay bob 2", b"pay eve 2")
    assert [each.payload for each in run_all(client)] == ["pay bob 1", "pay bob 4"]
    assert (first.result(), last.result()) == ("pay bob 1", "pay bob 4")
    for handle, why in ((forged, "does not fit what it signs"), (unsigned, "is not signed, and this worker")):
        reason, error_type, message = failure(client, handle)
        assert (reason, error_type) == (Reason.BAD_SIGNATURE, "BadSignature")
        assert handle.task_id in message
        assert why in message
        assert message in caplog.text
    stranger.close()


def test_what_is_signed_may_be_read_by_anybody(client: TaskQueue, redis_url: str, namespace: str) -> None:
    stranger = TaskQueue(redis_url, namespace=namespace, user_id="alice")
    handle = client.enqueue(Task(payload={"a": [1]}, meta={"trace": "1"}))
    info = stranger.get(handle.task_id)
    assert (info.payload, info.meta, info.queue) == ({"a": [1]}, {"trace": "1"}, "default")
    assert [each.payload for each in run_all(stranger)] == [{"a": [1]}]
    stranger.close()


def test_rotation(client: TaskQueue, redis_url: str, namespace: str, write_keys: WriteKeys) -> None:
    both = TaskQueue(
        redis_url, namespace=namespace, user_id="alice", signing_keys_file=write_keys(NEW_LINE, OLD_LINE, name="both")
    )
    new = TaskQueue(redis_url, namespace=namespace, user_id="alice", signing_keys_file=write_keys(NEW_LINE, name="new"))
    old_task, new_task = client.enqueue(Task(payload=1)), both.enqueue(Task(payload=2))
    assert [each.payload for each in run_all(both)] == [1, 2]
    too_late, in_time = client.enqueue(Task(payload=3)), both.enqueue(Task(payload=4))
    assert [each.payload for each in run_all(new)] == [4]
    assert (old_task.result(), new_task.result(), in_time.result()) == (1, 2, 4)
    reason, _, message = failure(new, too_late)
    assert reason is Reason.BAD_SIGNATURE
    assert "is signed with the key old, which this worker does not have" in message
    assert too_late.retry(), "the key may come back"
    assert [each.payload for each in run_all(both)] == [3]
    both.close()
    new.close()


def test_what_happens_to_a_task_leaves_its_signature_valid(client: TaskQueue) -> None:
    handles = client.enqueue_many(Task(payload=number, max_retries=1, retry_backoff_seconds=0) for number in range(3))
    retried, handed_back, cancelled = handles
    delayed = client.enqueue(Task(payload=3), delay_seconds=0.05)
    assert cancelled.cancel()
    assert cancelled.retry()
    with client.lease() as lease:
        first, second, *_ = lease.dequeue(2)
        assert [first.payload, second.payload] == [0, 1]
        lease.fail_task(first, "not yet")
        del second  # it goes back with the lease
    with client.lease() as lease:
        wanted = {retried, handed_back, cancelled, delayed}
        while wanted:
            for each in lease.dequeue(10):
                lease.finish_task(each, each.payload)
                wanted -= {handle for handle in wanted if handle.task_id == each.task_id}
    assert [handle.result(LATE) for handle in (*handles, delayed)] == [0, 1, 2, 3]


def test_a_queue_that_was_pickled_still_signs(client: TaskQueue) -> None:
    client.enqueue(Task(payload=0))
    packed = pickle.dumps(client)
    assert OLD not in packed
    twin = pickle.loads(packed)
    twin.enqueue(Task(payload=1))
    assert [each.payload for each in run_all(client)] == [0, 1]
    twin.close()


def test_without_keys_nothing_is_paid_for() -> None:
    program = (
        "import sys; names = ('hmac', 'base64', 'hashlib')\n"
        "import fairqued; assert 'fairqued.signing' not in sys.modules\n"
        "queue = fairqued.TaskQueue('redis://localhost', user_id='alice')\n"
        "for name in names: sys.modules.pop(name, None)\n"
        "spec = queue._prepare(fairqued.Task(payload=1), {})[0].spec\n"
        "assert spec == b'{\"payload\":1}', spec\n"
        "assert not [name for name in names if name in sys.modules]\n"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith(("FAIRQUED", "CREDENTIALS"))}
    subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, check=True, timeout=LATE, env=env)
