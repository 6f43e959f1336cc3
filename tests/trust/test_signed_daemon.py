"""Signed tasks through a real daemon: what it runs, and how keys are changed while it goes on (G14)."""

import os
import signal
from pathlib import Path

import pytest

from fairqued import Reason, TaskFailed, TaskHandle, TaskQueue
from fairqued.signing import CREDENTIAL
from tests.daemon.conftest import StartDaemon
from tests.support.daemon import LATE, Daemon, run
from tests.support.process_tasks import add, hold, pass_on
from tests.support.wait import wait_until
from tests.trust.conftest import WriteKeys

pytestmark = pytest.mark.process

OLD, NEW = "old: a secret that is old", "new: a secret that is new"


def client(daemon: Daemon, keys: Path | None) -> TaskQueue:
    return TaskQueue(daemon.url, namespace=daemon.namespace, user_id="alice", signing_keys_file=keys)


def refusal(handle: TaskHandle[int]) -> str:
    with pytest.raises(TaskFailed) as caught:
        handle.result(LATE)
    assert caught.value.reason == Reason.BAD_SIGNATURE
    return caught.value.message


def reload(daemon: Daemon, number: int) -> None:
    daemon.send(signal.SIGHUP)
    wait_until(lambda: rollout(daemon) == (number, 0), LATE, f"round {number} is over")


def rollout(daemon: Daemon) -> tuple[int, int]:
    told = daemon.status()["rollout"]
    return told["round"], told["left"]


def test_keys_change_under_a_daemon_that_goes_on(start_daemon: StartDaemon, write_keys: WriteKeys) -> None:
    of_daemon = write_keys(OLD)
    daemon = start_daemon(security={"signing_keys_file": str(of_daemon)})
    old, new = client(daemon, write_keys(OLD, name="o")), client(daemon, write_keys(NEW, name="n"))
    nobody = client(daemon, None)
    forged, genuine = nobody.enqueue(add.task(1, 1)), old.enqueue(add.task(1, 2))
    assert genuine.result(LATE) == 3
    assert "is not signed" in refusal(forged)
    passed_on: str = old.enqueue(pass_on.task(2, 3)).result(LATE)
    assert nobody.handle(passed_on).result(LATE) == 5, "what a task enqueues is signed by its worker"
    assert "is signed with the key new, which this worker does not have" in refusal(new.enqueue(add.task(1, 1)))
    assert daemon.messages(f"not run: task {forged.task_id} is not signed")

    write_keys(NEW, OLD)
    reload(daemon, 1)
    assert [queue.enqueue(add.task(2, 2)).result(LATE) for queue in (old, new)] == [4, 4]

    write_keys(NEW)
    reload(daemon, 2)
    assert new.enqueue(add.task(3, 3)).result(LATE) == 6
    assert "is signed with the key old" in refusal(old.enqueue(add.task(1, 1)))

    of_daemon.chmod(0o644)
    daemon.send(signal.SIGHUP)
    refusal_of_reload = "the old configuration goes on; the new one is refused: signing keys"
    daemon.wait_for_message(f"{refusal_of_reload} {of_daemon}: others may read or write it; run: chmod o= {of_daemon}")
    assert new.enqueue(add.task(4, 4)).result(LATE) == 8, "it goes on with the keys it has"
    for queue in (old, new, nobody):
        queue.close()


def test_a_task_that_a_dead_worker_held_is_still_signed(start_daemon: StartDaemon, write_keys: WriteKeys) -> None:
    keys = write_keys(NEW, name=CREDENTIAL)
    daemon = start_daemon()
    daemon.terminate()
    daemon.assert_clean_exit(5)
    daemon.start(env={"CREDENTIALS_DIRECTORY": str(keys.parent)})
    daemon.wait_until_ready()
    signed, nobody = client(daemon, keys), client(daemon, None)
    handle = signed.enqueue(hold.task("gate"))
    daemon.wait_for_starts(1)
    [pid] = daemon.worker_pids()
    os.kill(pid, signal.SIGKILL)
    daemon.wait_for_starts(2)
    daemon.open_gate("gate")
    assert handle.result(LATE) != pid
    assert "is not signed" in refusal(nobody.enqueue(add.task(1, 1)))
    signed.close()
    nobody.close()


def test_a_daemon_does_not_start_without_its_keys(make_daemon: StartDaemon, write_keys: WriteKeys) -> None:
    keys = write_keys("k: too short")
    daemon = make_daemon(security={"signing_keys_file": str(keys)})
    ended = run("-c", str(daemon.write_config()), cwd=daemon.directory)
    assert ended.returncode == 2
    assert f"fairqued: signing keys {keys}:1: the secret of k has 9 bytes, at least 16 are needed" in ended.stderr
    assert "too short" not in ended.stderr
