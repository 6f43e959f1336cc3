"""Being asked to stop, by Ctrl-C or SIGTERM, without being torn out of whatever is under way."""

from __future__ import annotations

import signal
from types import TracebackType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """A signal asked for the end; its text is the signal's name."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopRequest:
    """Notes the signals that ask for the end. Whoever waits for something calls `check` now and then.

    An exception out of a signal handler could strike anywhere: in rich while it holds back output, in the cleaning up.
    """

    def __init__(self) -> None:
        self._number: int | None = None

    def __enter__(self) -> Self:
        # One that is ignored, as SIGHUP is under nohup, stays so.
        wanted = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._note) for number in wanted}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self._number = number

    def check(self) -> None:
        """Raise Stopped if a signal has come."""
        if self._number is not None:
            raise Stopped(self._number)
