"""fairqued.service as shipped, installed in a container and adapted to the checkout by a drop-in."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fairqued.connection import make_client
from fairqued.doctor.fsck import fsck
from tests.support import process_tasks
from tests.support.daemon import PROGRAM, merged
from tests.support.ledger import Ledger
from tests.support.process_tasks import Start
from tests.support.servers import newest_binary
from tests.support.wait import wait_until
from tests.systemd.container import CHECKOUT, LATE, PLACES, Container

SHIPPED = CHECKOUT / "systemd"
STATE_DIR = "/var/lib/fairqued"
CONFIG = "/etc/fairqued/fairqued.yaml"
FAIRQUECTL = str(Path(PROGRAM[0]).with_name("fairquectl"))
WATCHDOG_SECONDS = 4

_FIRST = "00-checkout"
_ADAPTED = f"""
[Service]
ExecStart=
ExecStart={PROGRAM[0]}
ProtectHome=tmpfs
BindReadOnlyPaths={" ".join(map(str, PLACES))}
Environment={process_tasks.DIRECTORY_VARIABLE}={STATE_DIR}
WatchdogSec={WATCHDOG_SECONDS}
RestartSec=100ms
"""
"""Another program, where it lies; a little less patience."""


def relaxed(but: tuple[str, ...] = ()) -> str:
    """The drop-in that relaxes the sandbox, with all that it offers in force, but these settings."""
    lines = (SHIPPED / "fairqued.service.d/relaxed.conf").read_text().splitlines()
    kept = (line for line in lines if not line.removeprefix("#").startswith(but))
    return "".join(re.sub(r"^#(?=\w+=)", "", line) + "\n" for line in kept)


@dataclass
class Service:
    """One installation.

    Duties: install what is shipped; write the configuration; tell what systemd knows of the service, and what its tasks
    wrote down; leave nothing behind for the next test.
    """

    container: Container
    namespace: str = "fairque"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def install(self) -> None:
        """As docs/operations.md says."""
        for shipped, place in {
            "fairqued.service": "/etc/systemd/system/fairqued.service",
            "sysusers.d/fairqued.conf": "/etc/sysusers.d/fairqued.conf",
            "tmpfiles.d/fairqued.conf": "/etc/tmpfiles.d/fairqued.conf",
        }.items():
            self.container.write(place, (SHIPPED / shipped).read_text())
        self.container.run("systemd-sysusers", "/etc/sysusers.d/fairqued.conf")
        self.drop_in(_FIRST, _ADAPTED)

    def drop_in(self, name: str, text: str) -> None:
        """Add a drop-in."""
        self.container.write(f"/etc/systemd/system/fairqued.service.d/{name}.conf", text)
        self.container.run("systemctl", "daemon-reload")

    def configure(self, **changes: Any) -> None:
        """Write its configuration, with these changes."""
        self.write_config(yaml.safe_dump(merged(self._defaults(), changes)))

    def write_config(self, text: str) -> None:
        """Write the text of its configuration, which its user can read, and others cannot."""
        self.container.write(CONFIG, text)
        self.container.run("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/fairqued.conf")

    def _defaults(self) -> dict[str, Any]:
        return {
            "redis": {"url": "embedded", "server_binary": str(newest_binary().path)},
            "namespace": self.namespace,
            "state_dir": STATE_DIR,
            "python_path": [str(CHECKOUT), STATE_DIR],
            "imports": ["tests.support.process_tasks"],
            "pools": [{"name": "main", "processes": 1, "threads": 2}],
            "metrics": {"listen": None},
        }

    # What systemd is asked for and tells

    def systemctl(self, verb: str, *words: str, check: bool = True) -> str:
        return self.container.run("systemctl", "--no-pager", verb, *words, "fairqued.service", check=check)

    def start_and_wait(self) -> None:
        """Start it, and return when all its workers are ready."""
        self.systemctl("start")
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until it is up with all its workers."""
        try:
            wait_until(self._is_ready, LATE, "the service is up with all its workers")
        except AssertionError as error:
            raise AssertionError(f"{error}; its journal:\n{self.journal()[-3000:]}") from None

    def _is_ready(self) -> bool:
        numbers = re.search(r"(\d+) of (\d+) workers ready", self.status_text)
        return self.show("ActiveState") == "active" and numbers is not None and numbers[1] == numbers[2]

    def show(self, name: str) -> str:
        """A property of the unit."""
        return self.systemctl("show", "--value", f"--property={name}").strip()

    @property
    def status_text(self) -> str:
        """What the daemon told about itself."""
        return self.show("StatusText")

    @property
    def main_pid(self) -> int:
        """The master, by its number in the container; 0 if there is none."""
        return int(self.show("MainPID"))

    @property
    def restarts(self) -> int:
        return int(self.show("NRestarts"))

    def send(self, number: signal.Signals, whom: str = "main") -> None:
        self.systemctl("kill", f"--signal={number.name}", f"--kill-whom={whom}")

    def journal(self) -> str:
        """All that it and systemd wrote down."""
        return self.container.run("journalctl", "--no-pager", "--output=cat", "--unit=fairqued.service")

    # What its tasks do

    @property
    def url(self) -> str:
        """The address of its Redis for clients outside of the container."""
        return f"unix://{self.container.path(f'{STATE_DIR}/redis.sock')}"

    @property
    def directory(self) -> Path:
        """Where its tasks write."""
        return self.container.path(STATE_DIR)

    @property
    def ledger(self) -> Ledger:
        return process_tasks.ledger_of(self.directory)

    def starts(self) -> list[Start]:
        return process_tasks.starts_of(self.directory)

    def wait_for_starts(self, count: int) -> list[Start]:
        return wait_until(lambda: starts if len(starts := self.starts()) >= count else [], LATE, f"{count} starts")

    def open_gate(self, name: str) -> None:
        (self.directory / name).touch()

    # The end

    def findings(self) -> list[str]:
        """What is wrong in its namespace."""
        with make_client(self.url, LATE) as client:
            return fsck(client, self.namespace)

    def clean(self) -> None:
        """Leave the next test nothing but the installation."""
        self.systemctl("kill", "--signal=SIGKILL", "--kill-whom=all", check=False)
        self.systemctl("stop")
        self.systemctl("reset-failed", check=False)
        shutil.rmtree(self.directory, ignore_errors=True)
        for drop_in in self.container.path("/etc/systemd/system/fairqued.service.d").iterdir():
            if drop_in.stem != _FIRST:
                drop_in.unlink()
        self.container.run("systemctl", "daemon-reload")
        self.container.run("journalctl", "--rotate", "--vacuum-time=1s")
