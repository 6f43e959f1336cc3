"""A task that tries what a sandbox may forbid."""

import mmap
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from fairqued import task


def _make_code() -> None:
    mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def _list_interfaces() -> None:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()


def _have_a_temporary_file() -> None:
    Path("/tmp/fairqued-probe").write_text("")


def _start_programs() -> None:
    subprocess.run(["/bin/true"], check=True)


ATTEMPTS: dict[str, Callable[[], object]] = {
    "make code": _make_code,
    "be nice": lambda: os.nice(1),
    "choose CPUs": lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)),
    "read /proc/meminfo": lambda: Path("/proc/meminfo").read_text(),
    "list interfaces": _list_interfaces,
    "see other processes": Path("/proc/1").stat,
    "write to /etc": lambda: Path("/etc/fairqued-probe").write_text(""),
    "raw sockets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "have a temporary file": _have_a_temporary_file,
    "start programs": _start_programs,
    "read its secrets": Path("/run/credentials/fairqued.service/secret").read_text,
    "keep files": lambda: Path(os.environ["STATE_DIRECTORY"], "probe").write_text(""),
}


@task
def allowed() -> list[str]:
    """The attempts that succeed."""
    return [name for name, attempt in ATTEMPTS.items() if _succeeds(attempt)]


def _succeeds(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError:
        return False
    return True


@task
def run_a_program(seconds: float) -> None:
    """Fails if the program is not let end."""
    subprocess.run(["sleep", str(seconds)], check=True)
