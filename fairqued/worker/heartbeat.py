"""The thread that keeps a worker's lease, and notices when its master is gone."""

from __future__ import annotations

import logging
import select
import threading
from collections.abc import Callable

from fairqued.errors import FairquedError, QueueUnavailable, WorkerGone
from fairqued.lease import Lease
from fairqued.worker.bell import Waker

logger = logging.getLogger("fairqued.worker")


class Heartbeat(threading.Thread):
    """Beats every `seconds`; never stops for an error of Redis, tells once when it goes and when it comes back."""

    def __init__(
        self, lease: Lease, seconds: float, *, on_gone: Callable[[WorkerGone], None], master_fd: int | None = None,
        on_orphaned: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """`on_gone` is called when this worker was declared dead; `on_orphaned` when `master_fd` reaches its end."""
        super().__init__(name="heartbeat", daemon=True)
        self._lease, self._seconds = lease, seconds
        self._on_gone, self._on_orphaned = on_gone, on_orphaned
        self._master_fd = master_fd
        self._waker = Waker()
        self._stopping = False
        self._is_away = False

    def run(self) -> None:
        while not self._stopping:
            if not self._beat():
                return
            self._pause()
        self._waker.close()

    def stop(self) -> None:
        """End the thread."""
        self._stopping = True
        self._waker.ring()
        self.join()

    def _beat(self) -> bool:
        try:
            self._lease.heartbeat()
        except WorkerGone as error:
            self._on_gone(error)
            return False
        except QueueUnavailable as error:
            if not self._is_away:
                logger.warning("heartbeat: %s; running tasks go on", error)
            self._is_away = True
        except FairquedError:
            logger.exception("heartbeat failed")
        else:
            if self._is_away:
                logger.info("heartbeat: Redis is back")
            self._is_away = False
        return True

    def _pause(self) -> None:
        sources: list[int | Waker] = [self._waker] if self._master_fd is None else [self._waker, self._master_fd]
        ready, _, _ = select.select(sources, (), (), self._seconds)
        if self._master_fd in ready:
            self._on_orphaned()
