"""What a task writes can be told from what others write."""

from datetime import UTC, datetime, timedelta

import pytest

from fairqued import TaskQueue
from tests.daemon.conftest import StartDaemon
from tests.support.daemon import LATE
from tests.support.process_tasks import add, boom, log_lines

pytestmark = pytest.mark.process


def test_every_line_of_a_task_names_task_user_attempt_and_worker(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon(pools=[{"name": "main", "processes": 1, "threads": 4}])
    handles = {user: queue.enqueue(log_lines.task(f"hello {user}"), user_id=user) for user in ("alice", "bob", "eve")}
    for handle in handles.values():
        handle.result(LATE)
    (worker,) = daemon.status()["workers"]
    for user, handle in handles.items():
        lines = [line for line in daemon.logs() if f"hello {user}" in str(line.get("message"))]
        assert len(lines) == 2
        for line in lines:
            told = {name: line[name] for name in ("task", "user", "attempt", "worker", "pid")}
            assert told == {
                "task": handle.task_id, "user": user, "attempt": 1, "worker": worker["worker_id"], "pid": worker["pid"],
            }  # fmt: skip
        assert [line.get("colour") for line in lines] == ["red", None], "what the task adds is kept"
    assert daemon.output_file.read_text().count("printed") == 3, "a worker's output is not held back"


def test_a_failure_is_told_with_its_task(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon()
    handle = queue.enqueue(boom.task("no\nluck"))
    daemon.wait_for_message(f"task {handle.task_id} of alice failed: ValueError: no luck")
    (line,) = (line for line in daemon.logs() if line.get("task") == handle.task_id)
    assert (line["user"], line["attempt"], line["level"]) == ("alice", 1, "WARNING")
    assert line["worker"] == daemon.status()["workers"][0]["worker_id"]


def test_all_of_the_log_is_json(start_daemon: StartDaemon, queue: TaskQueue) -> None:
    daemon = start_daemon()
    queue.enqueue(add.task(1, 2)).result(LATE)
    daemon.terminate()
    daemon.assert_clean_exit(5)
    for line in daemon.logs():
        assert {"time", "level", "logger", "pid", "message"} <= line.keys()
        age = datetime.now(UTC) - datetime.fromisoformat(line["time"])
        assert timedelta() <= age < timedelta(seconds=LATE), line["time"]
