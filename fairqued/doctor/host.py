"""Whether this host lets a daemon work: its state directory, its disk, its limits."""

from __future__ import annotations

import getpass
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import psutil

from fairqued.doctor.finding import Finding, error, ok, warning

_NETWORK = ("nfs", "cifs", "smb", "9p", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs", "fuse.s3fs", "virtiofs")
_IN_MEMORY = ("tmpfs", "ramfs")
_FREE_MB, _FREE_MB_WITH_DATA = 100, 1024
_FEWEST_FILES = 1024
_FULL = 0.8


def host_findings(state_dir: Path, *, holds_data: bool, daemon_pid: int | None) -> list[Finding]:
    """What can be told of a daemon's place on this host; `holds_data` if its Redis is an embedded one."""
    return [
        *state_dir_is_writable(state_dir),
        *disk_is_local(state_dir, holds_data=holds_data),
        *disk_has_room(state_dir, holds_data=holds_data),
        *files_can_be_opened(daemon_pid),
    ]


def state_dir_is_writable(state_dir: Path) -> Iterator[Finding]:
    """The daemon keeps there which workers it had."""
    place = _nearest(state_dir)
    if not os.access(place, os.W_OK | os.X_OK):
        yield error(
            "state-dir", f"{getpass.getuser()} may not write to {place}",
            "give it to the daemon's user, or ask as that user or root",
        )  # fmt: skip
    elif place != state_dir:
        yield ok("state-dir", f"{state_dir} is not there yet, and can be made")
    elif not state_dir.is_dir():
        yield error("state-dir", f"{state_dir} is no directory", "let state_dir name another place")
    else:
        yield ok("state-dir", f"{state_dir} can be written")


def disk_is_local(state_dir: Path, *, holds_data: bool) -> Iterator[Finding]:
    """Locks and sockets do not work everywhere, and memory forgets."""
    kind = _file_system(_nearest(state_dir))
    if kind.startswith(_NETWORK):
        yield warning(
            "disk-kind", f"{state_dir} lies on a file system of the network ({kind}), where locks may fail",
            "let state_dir name a local disk",
        )  # fmt: skip
    elif holds_data and kind in _IN_MEMORY:
        yield warning(
            "disk-kind", f"{state_dir} lies in memory ({kind}): the embedded Redis loses all tasks with a restart",
            "let state_dir name a disk",
        )  # fmt: skip
    else:
        yield ok("disk-kind", f"{state_dir} lies on a local file system ({kind or 'of unknown kind'})")


def disk_has_room(state_dir: Path, *, holds_data: bool) -> Iterator[Finding]:
    """A full disk stops an embedded Redis, and a daemon that starts."""
    free = psutil.disk_usage(str(_nearest(state_dir))).free // 1024**2
    if free < (_FREE_MB_WITH_DATA if holds_data else _FREE_MB):
        yield warning("disk-space", f"{free} MB are left for {state_dir}", "free space there")
    else:
        yield ok("disk-space", f"{free} MB are left for {state_dir}")


def files_can_be_opened(daemon_pid: int | None) -> Iterator[Finding]:
    """Sockets count as files: a worker needs some, a task perhaps many."""
    opened, most = _files_of(daemon_pid)
    whose = "the daemon" if opened is not None else "a process started here"
    advice = "raise the limit: LimitNOFILE= in the unit, or `ulimit -n`"
    if most < _FEWEST_FILES:
        yield warning("open-files", f"{whose} may open {most} files", advice)
    elif opened is not None and opened > _FULL * most:
        yield warning("open-files", f"{whose} has {opened} files open of {most}", advice)
    else:
        yield ok("open-files", f"{whose} may open {most} files" + (f", {opened} are open" if opened else ""))


def _files_of(daemon_pid: int | None) -> tuple[int | None, int]:
    """How many files the daemon has open, if it may be looked into, and how many it may open."""
    own, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if daemon_pid is None or not hasattr(psutil.Process, "rlimit"):
        return None, own
    try:
        daemon = psutil.Process(daemon_pid)
        return daemon.num_fds(), int(daemon.rlimit(psutil.RLIMIT_NOFILE)[0])
    except psutil.Error:
        return None, own


def _nearest(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(place for place in (path, *path.parents) if place.exists())


def _file_system(path: Path) -> str:
    """The kind of the file system that holds a path; empty if it cannot be told."""
    place = path.resolve()
    around = [part for part in psutil.disk_partitions(all=True) if place.is_relative_to(part.mountpoint)]
    return max(around, key=lambda part: len(part.mountpoint)).fstype if around else ""
