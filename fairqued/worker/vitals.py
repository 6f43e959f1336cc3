"""Memory that a worker and its master share: signs of life, and what is to become of tasks if the worker dies.

The master makes it before the fork. Nothing here waits for anybody: a worker may be killed at any instruction.
"""

from __future__ import annotations

import mmap
import time
import zlib
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

import orjson

from fairqued.store import Ended

_WORD, _TIME = Struct("@Q"), Struct("@d")  # aligned, and so never seen half-written
_BEATS_AT, _WISH_AT, _USED_AT, _RENEWED_AT = 0, 8, 16, 24
_PLACE_HEAD = Struct("@II")  # length of the will (0: there is none), checksum
PLACE_BYTES, MOST_WILLS = 4096, 1024
_MOST_WRITTEN_BYTES = PLACE_BYTES - _PLACE_HEAD.size
_SIZE = mmap.PAGESIZE + MOST_WILLS * PLACE_BYTES


class Wish(IntEnum):
    """Why a worker wants to be replaced."""

    NONE = 0
    MAX_TASKS = 1
    WEDGED = 2


class Will(NamedTuple):
    """How a task ends if its process dies after `hard_at` (monotonic seconds)."""

    ended: Ended
    hard_at: float


class Vitals:
    """Signs of life of one worker. Pages that nobody writes to cost nothing."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE)

    def close(self) -> None:
        """Give the memory back; the other process keeps its own view of it."""
        self._memory.close()

    # Of the worker

    def beat(self) -> None:
        """The worker's heartbeat thread, which alone calls this, has its turn."""
        _WORD.pack_into(self._memory, _BEATS_AT, self.beats + 1)

    @property
    def beats(self) -> int:
        """How often it had."""
        return self._word(_BEATS_AT)

    def wish_for_replacement(self, why: Wish) -> None:
        """Ask for a worker in the place of this one, which goes on until told to stop; the gravest wish counts."""
        _WORD.pack_into(self._memory, _WISH_AT, max(why, self.wish))

    @property
    def wish(self) -> Wish:
        """What the worker asked for."""
        return Wish(self._word(_WISH_AT))

    def leave_will(self, place: int, will: Will | None) -> None:
        """Put a will, or none, in the place of the one there. A place belongs to one thread at a time.

        There are 1,024 places of 4 KiB: an error that is too long for one is left out, and a will beyond is none.
        """
        if place >= MOST_WILLS:
            return
        at, start = _span(place)
        self._memory[at:start] = bytes(_PLACE_HEAD.size)  # whoever dies in what follows has left none
        if will is None:
            return
        written = _written(will)
        self._memory[start : start + len(written)] = written
        if place >= self._word(_USED_AT):
            _WORD.pack_into(self._memory, _USED_AT, place + 1)
        _PLACE_HEAD.pack_into(self._memory, at, len(written), zlib.crc32(written))

    # Of the master

    def note_renewal(self, at: float | None = None) -> None:
        """The worker's lease was renewed just now, or not before that moment (monotonic seconds)."""
        _TIME.pack_into(self._memory, _RENEWED_AT, time.monotonic() if at is None else at)

    @property
    def renewed_at(self) -> float:
        """When the master last renewed the worker's lease (monotonic seconds); 0.0 before it first did."""
        return float(_TIME.unpack_from(self._memory, _RENEWED_AT)[0])

    def wills(self) -> list[Will]:
        """What the worker left; a will that was being written when it died is none."""
        return [will for place in range(self._word(_USED_AT)) if (will := self._read(place))]

    def _word(self, at: int) -> int:
        return int(_WORD.unpack_from(self._memory, at)[0])

    def _read(self, place: int) -> Will | None:
        at, start = _span(place)
        length, checksum = _PLACE_HEAD.unpack_from(self._memory, at)
        written = self._memory[start : start + length]
        if not 0 < length <= _MOST_WRITTEN_BYTES or zlib.crc32(written) != checksum:
            return None
        hard_at, task_id, fence, what, number, error = orjson.loads(written)
        return Will(Ended(task_id, fence, what, number, error.encode()), hard_at)


def _span(place: int) -> tuple[int, int]:
    """Where a place begins, and where the will in it does."""
    at = mmap.PAGESIZE + place * PLACE_BYTES
    return at, at + _PLACE_HEAD.size


def _written(will: Will) -> bytes:
    task_id, fence, what, number, error = will.ended
    written = orjson.dumps([will.hard_at, task_id, fence, what, number, error.decode()])
    if len(written) > _MOST_WRITTEN_BYTES:
        written = orjson.dumps([will.hard_at, task_id, fence, what, number, "{}"])
    return written
