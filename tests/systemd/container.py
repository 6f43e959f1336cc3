"""A container with a real systemd as its process 1, on a copy-on-write view of this machine's files."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

import psutil

from tests.support.wait import wait_until

LATE = 30
CHECKOUT = Path(__file__).parents[2]
PLACES = tuple(sorted({CHECKOUT, Path(sys.prefix), Path(sys.base_prefix)}))
"""Where the code under test lies, and its interpreter."""
_TOOLS = ("systemd-nspawn", "systemctl", "nsenter", "unshare", "setpriv", "mount")
_PLACE = "/run/fairqued-test"
_NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid")
_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "SYSTEMD_COLORS": "0"}
_NETWORK_IS_UP = "etc/systemd/system/network-online.target"
"""Whatever this machine does to wait for its network would wait for ever."""


class CannotBoot(Exception):
    """This machine cannot run such a container; the text says why."""


@dataclass
class Container:
    """One container: booted no further than services need, without network, its changes in memory.

    Its mounts and processes are in namespaces of their own, which end when this process does.
    """

    name: str = field(default_factory=lambda: f"fairqued-test-{uuid.uuid4().hex[:12]}")
    _cgroups: list[Path] = field(default_factory=list)
    _process: subprocess.Popen[bytes] | None = None
    _init: psutil.Process | None = None
    _console: IO[bytes] = field(default_factory=tempfile.TemporaryFile)

    def boot(self) -> Self:
        """Boot it. Raises CannotBoot."""
        try:
            self._boot()
        except BaseException:
            self.end()
            raise
        return self

    @property
    def root(self) -> Path:
        """Its files, seen from outside."""
        assert self._init is not None
        return Path(f"/proc/{self._init.pid}/root")

    def path(self, inside: str | Path) -> Path:
        """A file of it, seen from outside; read, write and connect as usual."""
        return self.root / str(inside).lstrip("/")

    def run(self, *words: str, check: bool = True) -> str:
        """What a command prints inside, errors included."""
        assert self._init is not None
        command = ["nsenter", "--target", str(self._init.pid), *_NAMESPACES, *words]
        done = subprocess.run(
            command, env=_ENV, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=LATE, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{shlex.join(words)} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def write(self, inside: str, text: str) -> None:
        """Write a file inside, and the folders above it."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def end(self) -> None:
        """Kill it, and remove what is left of it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._console.close()
        wait_until(lambda: all(map(_is_removed, self._cgroups)), LATE, "its cgroups are removed")

    def _boot(self) -> None:
        if missing := [tool for tool in _TOOLS if not shutil.which(tool)]:
            raise CannotBoot(f"{missing[0]} is not installed (Debian: apt-get install systemd-container)")
        if os.geteuid() != 0:
            raise CannotBoot("only root can boot a container")
        self._make_cgroups()
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private",
             "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-ec", self._script()],
            env=_ENV, stdin=subprocess.DEVNULL, stdout=self._console, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._init = wait_until(self._find_init, LATE, "systemd is process 1 of the container")
        wait_until(self._is_booted, LATE, "systemd has booted")
        self._open_ways()

    def _make_cgroups(self) -> None:
        """Two containers in the same cgroup would take each other's services for their own."""
        for parent in _own_cgroups():
            cgroup = parent / self.name
            try:
                cgroup.mkdir()
            except OSError as error:
                raise CannotBoot(f"no cgroup can be made: {error}") from None
            self._cgroups.append(cgroup)

    def _script(self) -> str:
        """Mount an overlay over `/`, and become systemd-nspawn."""
        root = f"{_PLACE}/root"
        binds = [f"--bind-ro={place}" for place in _not_on_the_overlay()]
        nspawn = [
            "systemd-nspawn", f"--directory={root}", f"--machine={self.name}", "--boot", "--register=no", "--keep-unit",
            "--private-network", "--link-journal=no", "--console=pipe", *binds, "--", "--unit=sysinit.target",
        ]  # fmt: skip
        return "\n".join(
            [
                *(f"echo 0 > {shlex.quote(str(cgroup / 'cgroup.procs'))}" for cgroup in self._cgroups),
                "mount -t tmpfs -o mode=755 tmpfs /run",
                f"mkdir -p {_PLACE}/upper/{Path(_NETWORK_IS_UP).parent} {_PLACE}/work {root}",
                f"ln -s /dev/null {_PLACE}/upper/{_NETWORK_IS_UP}",
                f"mount -t overlay -o lowerdir=/,upperdir={_PLACE}/upper,workdir={_PLACE}/work overlay {root}",
                f"exec {shlex.join(nspawn)}",
            ]
        )

    def _find_init(self) -> psutil.Process | None:
        assert self._process is not None
        if self._process.poll() is not None:
            raise CannotBoot(f"systemd-nspawn does not work here: {self._last_words()}")
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self._process.pid).children(recursive=True):
                if process.name() == "systemd":
                    return process
        return None

    def _is_booted(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise CannotBoot(f"systemd does not boot here: {self._last_words()}")
        return self.run("systemctl", "is-active", "sysinit.target", check=False).strip() == "active"

    def _open_ways(self) -> None:
        """Let every user inside come to the code under test, whoever may enter the folders above it outside."""
        for folder in {parent for place in PLACES for parent in place.parents}:
            mode = self.path(folder).stat().st_mode
            if mode & 0o555 != 0o555:
                self.path(folder).chmod(mode | 0o555)

    def _last_words(self) -> str:
        self._console.seek(0)
        return " ".join(self._console.read().decode(errors="replace").split())[-500:]


def _own_cgroups() -> Iterator[Path]:
    """Where this process is in the hierarchies that systemd uses: the unified one, and its own one of version 1."""
    mounted = {
        kind: place
        for _, place, kind, options, *_ in map(str.split, Path("/proc/self/mounts").read_text().splitlines())
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(","))
    }
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        if place := mounted.get({"": "cgroup2", "name=systemd": "cgroup"}.get(controllers, "")):
            yield Path(place) / own.lstrip("/")


def _is_removed(cgroup: Path) -> bool:
    """Whether a cgroup is gone; it is removed with those below it once their last process has ended."""
    try:
        for folder, _, _ in os.walk(cgroup, topdown=False):
            Path(folder).rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _not_on_the_overlay() -> list[Path]:
    """Which of the places are mounted from elsewhere, or covered by the container's own /tmp."""
    mounts = {line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()}
    return [
        place
        for place in PLACES
        if place.is_relative_to("/tmp") or next(str(p) for p in (place, *place.parents) if str(p) in mounts) != "/"
    ]
