"""The thread that keeps a worker's lease."""

from __future__ import annotations

import threading
from collections.abc import Callable

from fairqued.errors import WorkerGone
from fairqued.lease import Lease
from fairqued.troubles import Troubles
from fairqued.worker.bell import Waker, wait_any


class Heartbeat(threading.Thread):
    """Beats every `seconds` until told to stop, or that this worker was declared dead."""

    def __init__(
        self, lease: Lease, seconds: float, troubles: Troubles, *, on_gone: Callable[[WorkerGone], None]
    ) -> None:
        """`on_gone` is called when this worker was declared dead."""
        super().__init__(name="heartbeat", daemon=True)
        self._lease, self._seconds, self._troubles, self._on_gone = lease, seconds, troubles, on_gone
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
        except Exception as error:  # noqa: BLE001 - it is told
            self._troubles.begin("heartbeat", error)
        else:
            self._troubles.end("heartbeat")
        return True
