"""What became of each worker process of a chaos run: its own log, its master's log, and the notes of what was done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fairqued.daemon import exits
from fairqued.worker.worker import EXIT_FENCED
from tests.support.chaos_field import LEASE_SECONDS
from tests.support.chaos_host import FROZEN, Host, Note
from tests.support.fate import Fate

_SLACK_SECONDS = 3.0
"""Leases are judged each second, and a renewal under way may be older than the trouble."""
_WORDS = {
    exits.WORKER_STOPPED: "drained",
    exits.WORKER_ORPHANED: "master killed",
    EXIT_FENCED: "had lost its lease",
    exits.WORKER_BOOT_FAILED: "could not boot",
}
_KILLED_BY_MASTER = {
    "was stopped for": FROZEN,
    "did not end in time": "drained",
    "was not ready": "did not boot in time",
}


@dataclass(kw_only=True)
class Struck(Fate):
    """A worker of a daemon; `exit_code` is the one it gave itself, if it came to that."""

    pid: int
    notes: Sequence[Note] = ()
    told: Sequence[str] = ()
    """What its master's log says of it."""
    exit_code: int | None = None

    def cause(self, at: float, script: str) -> str | None:  # noqa: ARG002
        """Its death, else why its lease could not be renewed, else its own end, else what its master did."""
        felt = [
            note for note in self.notes if note.concerns(self.pid) and note.is_felt(at, LEASE_SECONDS + _SLACK_SECONDS)
        ]
        return next((note.what for note in sorted(felt, key=lambda note: not note.is_death)), None) or self._end()

    def _end(self) -> str | None:
        if self.exit_code is not None:
            return _WORDS.get(self.exit_code)
        return next((why for sign, why in _KILLED_BY_MASTER.items() if any(sign in line for line in self.told)), None)

    @property
    def ended_well(self) -> bool:
        """Never said of it: one that was told to stop leaves what does not end in time to its master."""
        return False

    @property
    def trouble(self) -> str:
        if self.exit_code is not None:
            return "" if self.exit_code in _WORDS else f"ended with {self.exit_code}"
        died = any(note.is_death and note.concerns(self.pid) for note in self.notes)
        return "" if died or self._end() else "vanished, and nobody killed it"


def fates_of(host: Host) -> dict[str, Fate]:
    """The fates of a host's workers, by their ids."""
    told = _told(host)
    return {log.name: _fate_of(log, host.notes, told.get(log.name, ())) for log in sorted(host.logs.iterdir())}


def _told(host: Host) -> Mapping[str, Sequence[str]]:
    told: dict[str, list[str]] = defaultdict(list)
    for line in host.daemon.logs():
        if line.get("logger") == "fairqued.master" and "worker" in line:
            told[line["worker"]].append(str(line["message"]))
    return told


def _fate_of(log: Path, notes: Sequence[Note], told: Sequence[str]) -> Struck:
    pid, ended_at, code = 0, 0.0, None
    for words in _lines(log):
        if words[0] == "born":
            pid = int(words[1])
        if words[0] == "exit":
            code = int(words[1])
        if words[0] != "status":
            ended_at = float(words[-1])
    return Struck(log.name, log, ended_at, pid=pid, notes=notes, told=told, exit_code=code)


def _lines(log: Path) -> Iterator[list[str]]:
    return (line.split() for line in log.read_text().splitlines())
