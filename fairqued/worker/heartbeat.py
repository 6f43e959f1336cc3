"""The thread that keeps a worker's lease."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from fairqued.errors import NotAllowed, QueueUnavailable, WorkerGone
from fairqued.lease import Lease
from fairqued.worker.bell import Waker, wait_any
from fairqued.worker.outage import Outage

logger = logging.getLogger("fairqued.worker")


class Heartbeat(threading.Thread):
    """Beats every `seconds` until told to stop, or that this worker was declared dead."""

    def __init__(self, lease: Lease, seconds: float, outage: Outage, *, on_gone: Callable[[WorkerGone], None]) -> None:
        """`on_gone` is called when this worker was declared dead."""
        super().__init__(name="heartbeat", daemon=True)
        self._lease, self._seconds, self._outage, self._on_gone = lease, seconds, outage, on_gone
        self._waker = Waker()
        self._stopping = False

    def run(self) -> None:
        """The thread."""
        while not self._stopping and self._beat():
            wait_any([self._waker], self._seconds)

    def stop(self) -> None:
        """End the thread, once the beat under way is over."""
        self._stopping = True
        self._waker.ring()
        self.join()
        self._waker.close()

    def _beat(self) -> bool:
        try:
            self._lease.heartbeat()
        except WorkerGone as error:
            self._on_gone(error)
            return False
        except (QueueUnavailable, NotAllowed) as error:
            self._outage.begin(error)
        except Exception:
            logger.exception("heartbeat failed")
        else:
            self._outage.end()
        return True
