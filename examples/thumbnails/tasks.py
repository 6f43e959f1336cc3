"""The work. Images are PPM files, read and written in plain Python; a real application would use Pillow."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fairqued import current_task, task


@dataclass(frozen=True)
class Thumbnail:
    """What `result()` gives back: fairqued stores JSON, and restores what the annotations say."""

    path: Path
    width: int
    height: int


# Three more attempts after an error, the first of them after 2 to 4 seconds, each pause longer than the one before.
# A file that is not there will not come by waiting.
@task(max_retries=3, retry_backoff_seconds=4, no_retry_on=[FileNotFoundError])
def thumbnail(source: Path, target: Path, width: int) -> Thumbnail:
    """Make a smaller copy of an image.

    A task may be killed anywhere and is then run again. So it is written such that running it twice does no harm: the
    target appears at once and whole, by a rename.
    """
    small_width, small_height, pixels = shrink(*read_ppm(source), width)
    beside = target.with_name(f"{target.name}.{os.getpid()}")
    beside.write_bytes(b"P6\n%d %d\n255\n" % (small_width, small_height) + pixels)
    beside.replace(target)
    current_task().logger.info("made %s", target)  # the log line carries task, user and attempt
    return Thumbnail(target, small_width, small_height)


def read_ppm(path: Path) -> tuple[int, int, bytes]:
    """Width, height and pixels (red, green, blue, a byte each) of a binary PPM file without comments."""
    magic, width, height, largest, pixels = path.read_bytes().split(maxsplit=4)
    if magic != b"P6" or int(largest) > 255:  # noqa: PLR2004
        raise ValueError(f"{path}: not a PPM image of a byte a colour")
    return int(width), int(height), pixels


def shrink(width: int, height: int, pixels: bytes, new_width: int) -> tuple[int, int, bytes]:
    """Average squares of pixels into one."""
    step = max(1, width // new_width)
    small_width, small_height = width // step, height // step
    small = bytearray()
    for y in range(small_height):
        rows = [pixels[3 * width * (step * y + row) :][: 3 * width] for row in range(step)]
        for x in range(small_width):
            for colour in range(3):
                total = sum(sum(row[3 * step * x + colour : 3 * step * (x + 1) : 3]) for row in rows)
                small.append(total // step**2)
    return small_width, small_height, bytes(small)
