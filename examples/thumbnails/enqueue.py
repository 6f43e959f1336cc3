"""The application: enqueues thumbnails of two users and waits for them. `python enqueue.py FOLDER`."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from tasks import thumbnail

from fairqued import TaskQueue, TaskState

# The address of Redis comes from $FAIRQUED_REDIS_URL. Nothing is opened before the first use.
queue = TaskQueue()


def main(folder: Path) -> None:
    """Enqueue everything, then show what came of it."""
    photos = make_samples(folder, 20)

    # alice has an album. The handles are typed: their results are what the function returns.
    album = queue.enqueue_many(
        (thumbnail.task(photo, photo.with_suffix(".small.ppm"), 64) for photo in photos), user_id="alice"
    )
    # bob has one picture. He comes last and is served first, or nearly so: the users take turns by the time they use.
    picture = queue.enqueue(thumbnail.task(photos[0], folder / "bob.ppm", 32), user_id="bob")

    made = picture.result(timeout_seconds=60)
    done = sum(handle.state() is TaskState.FINISHED for handle in album)
    print(f"bob: {made.path.name}, {made.width} x {made.height}, when alice had {done} of {len(album)}")
    for handle in album:
        handle.result(timeout_seconds=60)  # raises TaskFailed, with the task's own error, if it failed
    print(f"alice: all {len(album)} thumbnails")


def make_samples(folder: Path, number: int) -> list[Path]:
    """Some noise to work on."""
    folder.mkdir(parents=True, exist_ok=True)
    photos = [folder.resolve() / f"photo-{index:02}.ppm" for index in range(number)]
    for photo in photos:
        photo.write_bytes(b"P6\n640 480\n255\n" + random.randbytes(3 * 640 * 480))
    return photos


if __name__ == "__main__":
    main(Path(sys.argv[1]))
