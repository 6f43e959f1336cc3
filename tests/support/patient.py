"""A daemon with a Redis of its own, which may come to harm."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fairqued import TaskHandle, TaskQueue
from fairqued.connection import make_client
from fairqued.doctor.fsck import fsck
from tests.support.daemon import LATE, Daemon
from tests.support.process_tasks import hold, say_when
from tests.support.proxy import Faults, FaultyProxy
from tests.support.servers import RedisServer
from tests.support.wait import wait_until

SAVED_AT_ONCE = ("--appendfsync", "always")


class Patient:
    """A daemon, the server that it alone uses, a faulty proxy between both, and a client that is not disturbed."""

    def __init__(self, settings: Mapping[str, Any], options: Sequence[str] = ()) -> None:
        self.server = RedisServer(persist=True, options=(*SAVED_AT_ONCE, *options)).start()
        self.proxy = FaultyProxy(self.server.url).start()
        self.daemon = Daemon(self.proxy.url, f"test-{uuid.uuid4().hex[:12]}", settings)
        self.queue = self.queue_with_deadline(LATE)

    def close(self) -> None:
        self.daemon.remove()
        self.queue.close()
        self.proxy.close()
        self.server.close()

    # Its Redis

    def command(self, *words: Any) -> Any:
        """Send a command to its server."""
        with make_client(self.server.url, LATE) as client:
            connection: Any = client
            return connection.execute_command(*words)

    def fsck(self) -> list[str]:
        with make_client(self.server.url, LATE) as client:
            return fsck(client, self.daemon.namespace)

    def go_away(self, how: str) -> Callable[[], object]:
        """Take Redis away from the daemon: what brings it back."""
        match how:
            case "kill":
                self.server.kill()
                return self.server.start
            case "freeze":
                self.server.freeze()
                return self.server.cont
            case "refusal":
                faults = Faults(refuse=True)
            case "black hole":
                faults = Faults(black_hole=True)
            case _:
                faults = Faults(black_hole=True, silent=True)
        self.proxy.inject(faults)
        return self.proxy.heal

    # Its work

    def queue_with_deadline(self, timeout_seconds: float) -> TaskQueue:
        """A client with a deadline."""
        return TaskQueue(
            self.server.url, namespace=self.daemon.namespace, user_id="alice", timeout_seconds=timeout_seconds
        )

    def start_holding(self, gate: str) -> TaskHandle[int]:
        """A task that has started, and runs until the gate is opened."""
        handle = self.queue.enqueue(hold.task(gate))
        wait_until(lambda: any(start.task_id == handle.task_id for start in self.daemon.starts()), LATE, "it starts")
        return handle

    def seconds_until_it_works(self) -> float:
        """How long from now until a new task runs."""
        began = time.time()
        return self.queue.enqueue(say_when.task()).result(LATE) - began

    def processes(self) -> list[int]:
        """The master and its workers."""
        return [self.daemon.pid, *self.daemon.worker_pids()]

    # What its processes say

    def changes(self, skip_lines: int = 0) -> dict[int, list[str]]:
        """What each process said of Redis: `away` and `back`, in order."""
        said: dict[int, list[str]] = {}
        for line in self.daemon.logs()[skip_lines:]:
            message = str(line.get("message"))
            if message.startswith("Redis at"):
                said.setdefault(line["pid"], []).append("away")
            elif message.startswith("Redis is back"):
                said.setdefault(line["pid"], []).append("back")
        return said

    def wait_until_all_are_back(self) -> None:
        """Wait until each process that missed Redis has said that it is back, and the master sees it."""
        wait_until(lambda: all(said[-1] == "back" for said in self.changes().values()), LATE, "all say it is back")
        assert self.daemon.status()["redis"]["reachable"]
