"""The thread that keeps a worker's lease, and notices when nobody could."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from fairqued.crash_points import crash_point
from fairqued.errors import WorkerGone
from fairqued.lease import Lease
from fairqued.troubles import Troubles
from fairqued.worker.settings import WorkerSettings

logger = logging.getLogger("fairqued.worker")

_RETRY_SECONDS = 1.0


class Heartbeat(threading.Thread):
    """Beats every `seconds` until told to stop, or that this worker was declared dead.

    A lease that neither it nor the master could renew is lost, until one of them can after all.
    """

    def __init__(
        self,
        lease: Lease,
        settings: WorkerSettings,
        troubles: Troubles,
        *,
        on_beat: Callable[[], None],
        on_gone: Callable[[WorkerGone], None],
    ) -> None:
        """`on_beat` is called after each round, `on_gone` when this worker was declared dead."""
        super().__init__(name="heartbeat", daemon=True)
        self._lease, self._settings, self._troubles = lease, settings, troubles
        self._on_beat, self._on_gone = on_beat, on_gone
        self._pause_seconds = settings.heartbeat_seconds
        self.is_lost = False
        """Whether the lease is over, so that another worker may have its tasks."""
        self._stopped = threading.Event()

    def run(self) -> None:
        """The thread."""
        while self._beat():
            self._judge()
            self._pass_on()
            if self._stopped.wait(self._pause_seconds):
                return

    def stop(self) -> None:
        """End the thread, once the beat under way is over."""
        self._stopped.set()
        self.join()

    def _beat(self) -> bool:
        crash_point("before_heartbeat")
        began = time.monotonic()
        if self._settings.vitals:
            self._settings.vitals.beat()
        try:
            self._lease.heartbeat()
            crash_point("after_heartbeat")
        except WorkerGone as error:
            self._on_gone(error)
            return False
        except Exception as error:  # noqa: BLE001 - it is told
            self._troubles.begin("heartbeat", error)
            spent = time.monotonic() - began
            self._pause_seconds = max(0.0, min(self._settings.heartbeat_seconds, _RETRY_SECONDS) - spent)
        else:
            self._troubles.end("heartbeat")
            self._pause_seconds = self._settings.heartbeat_seconds
        return True

    def _pass_on(self) -> None:
        """Trouble with the tasks is no reason to let the lease end."""
        try:
            self._on_beat()
        except Exception as error:  # noqa: BLE001 - it is told
            self._troubles.begin("interrupting tasks", error)
        else:
            self._troubles.end("interrupting tasks")

    def _judge(self) -> None:
        vitals = self._settings.vitals
        was_lost, self.is_lost = self.is_lost, self._lease.judge(vitals.renewed_at if vitals else 0.0)
        if self.is_lost and not was_lost:
            logger.warning("the lease is over, and nobody could renew it: nothing is fetched until somebody can")
        elif was_lost and not self.is_lost:
            logger.info("the lease was renewed")
