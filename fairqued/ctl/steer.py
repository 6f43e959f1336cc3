"""`reload`, `scale` and `drain`: orders to the daemon on this host, and how they went."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import click
import psutil

from fairqued.ctl import render
from fairqued.ctl.control import NobodyListens
from fairqued.ctl.exits import DaemonNotRunning
from fairqued.ctl.options import Asked, output_options, target_options
from fairqued.ctl.progress import Progress
from fairqued.ctl.render import Output
from fairqued.ctl.status import is_hidden
from fairqued.ctl.target import Target
from fairqued.errors import ConfigError, FairquedError

_PAUSE_SECONDS = 0.1
_PATIENCE_SECONDS = 2.0
_LAST_STEPS_SECONDS = 10.0
"""What a daemon may need beyond drain_seconds: to kill, to put back, to stop an embedded Redis."""


@click.command(short_help="Let the daemon read its configuration anew, workers too.")
@target_options
@output_options
@click.option("--no-wait", is_flag=True, help="Return once the configuration is accepted, before workers are replaced.")
@click.pass_obj
def reload(asked: Asked, no_wait: bool) -> None:  # noqa: FBT001 - click's form
    """Let the daemon read its configuration anew, and replace its workers one by one.

    Waits until all are replaced. Ends with 1 if the daemon refuses the configuration, and keeps the old one; or if a
    new worker cannot boot: the old ones go on then, and the daemon tries again by itself.
    """
    output = asked.output_among(Output.TABLE, Output.JSON)
    target = _target_of_reload(asked)
    started = target.order_daemon("reload")["round"]
    if no_wait:
        _tell(output, {"round": started}, f"round {started}: the configuration is accepted, workers are being replaced")
        return
    with Progress() as progress:
        replaced = _Rollout(target, started, progress).wait()
    _tell(output, {"round": replaced.round, "replaced": replaced.workers}, f"{replaced.workers} workers replaced")


@click.command(short_help="Set how many processes a pool of the daemon has.")
@target_options
@output_options
@click.argument("pool")
@click.argument("processes", type=click.IntRange(min=1))
@click.pass_obj
def scale(asked: Asked, pool: str, processes: int) -> None:
    """Let a pool of the daemon have so many worker processes, until its next reload or restart."""
    output = asked.output_among(Output.TABLE, Output.JSON)
    now = asked.target().order_daemon("scale", pool=pool, processes=processes)
    _tell(output, now, f"pool {now['pool']}: {now['processes']} worker processes until the next reload")


@click.command()
@target_options
@output_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def drain(asked: Asked, yes: bool) -> None:  # noqa: FBT001 - click's form
    """Stop the daemon in good order, and wait for its end.

    Nothing new is started, running tasks have worker.drain_seconds to end, the rest goes back to its queue.
    """
    output = asked.output_among(Output.TABLE, Output.JSON)
    target = asked.target()
    daemon = target.ask_daemon("status")
    if not yes:
        _confirm(f"Stop the daemon with pid {daemon['pid']} ({daemon['state_dir']})?")
    began = time.monotonic()
    limit = target.order_daemon("drain")["drain_seconds"]
    with Progress() as progress:
        _wait_for_end(target, daemon["pid"], limit, progress)
    took = time.monotonic() - began
    _tell(output, {"pid": daemon["pid"], "seconds": round(took, 3)}, f"the daemon has stopped, after {took:.1f} s")


def _confirm(question: str) -> None:
    """Go on only with a yes."""
    try:
        is_confirmed = click.confirm(question, err=True)
    except click.Abort:
        raise click.ClickException("nobody answered, so nothing was done; --yes does not ask") from None
    if not is_confirmed:
        raise click.Abort


def _tell(output: Output, document: Mapping[str, Any], words: str) -> None:
    if output is Output.JSON:
        render.print_json(document)
    else:
        render.print_lines([words])


# Reload


def _target_of_reload(asked: Asked) -> Target:
    """Where the daemon is, as its configuration tells, which may be bad by now."""
    try:
        return asked.target()
    except ConfigError as error:
        raise ConfigError(f"{error}\nThe daemon was not asked, and goes on as it is.") from None


@dataclass(frozen=True)
class _Replaced:
    round: int
    workers: int


class _Rollout:
    """Follows the replacement of workers, from the status of the daemon."""

    def __init__(self, target: Target, started: int, progress: Progress) -> None:
        self._target, self._round, self._progress = target, started, progress
        self._workers = 0
        self._stuck_since: float | None = None

    def wait(self) -> _Replaced:
        """Until all workers are replaced. Raises FairquedError with the reason if that does not get on."""
        while not self._is_over(self._target.ask_daemon("status")):
            time.sleep(_PAUSE_SECONDS)
        return _Replaced(self._round, self._workers)

    def _is_over(self, status: Mapping[str, Any]) -> bool:
        rollout = status["rollout"]
        left = rollout["left"]
        if status["phase"] == "stopping":
            raise FairquedError("the daemon is stopping: not all workers are replaced")
        if rollout["round"] < self._round:
            self._await_turn(is_idle=left == 0)
            return False
        self._workers = _places(status["workers"])
        self._progress.show(f"{self._workers - left} of {self._workers} workers replaced")
        if rollout["round"] > self._round or left == 0:
            return True
        if self._is_stuck(is_now=bool(rollout["trouble"])):
            raise FairquedError(
                f"{rollout['trouble']}\n{left} workers are still to be replaced; the old ones go on, and the daemon "
                "tries again"
            )
        return False

    def _await_turn(self, *, is_idle: bool) -> None:
        """An earlier round goes on first. If nothing follows it, ours was refused when its turn came: ask why."""
        self._progress.show("an earlier reload goes on")
        if self._is_stuck(is_now=is_idle):
            self._round, self._stuck_since = self._target.order_daemon("reload")["round"], None

    def _is_stuck(self, *, is_now: bool) -> bool:
        """Whether it has been so for a while."""
        if not is_now:
            self._stuck_since = None
            return False
        if self._stuck_since is None:
            self._stuck_since = time.monotonic()
        return time.monotonic() - self._stuck_since > _PATIENCE_SECONDS


def _places(workers: Sequence[Mapping[str, Any]]) -> int:
    """How many workers there should be; those of hidden queues come and go."""
    return len({worker["title"] for worker in workers if not is_hidden(worker)})


# Drain


def _wait_for_end(target: Target, pid: int, drain_seconds: float, progress: Progress) -> None:
    """Until nobody listens. Raises FairquedError if that takes longer than it may."""
    began = time.monotonic()
    while _listens(target):
        seconds = time.monotonic() - began
        if seconds > drain_seconds + _LAST_STEPS_SECONDS:
            raise FairquedError(f"the daemon with pid {pid} was told to stop {seconds:.0f} s ago, and is still there")
        progress.show(f"stopping for {seconds:.0f} s of {drain_seconds:g}")
        time.sleep(_PAUSE_SECONDS)
    _wait_for_process(pid)


def _listens(target: Target) -> bool:
    try:
        target.ask_daemon("ping")
    except NobodyListens:
        return False
    except DaemonNotRunning:  # it does not answer, but it is there
        return True
    return True


def _wait_for_process(pid: int) -> None:
    """Its last steps, so that the next daemon finds the state directory free; another container's cannot be seen."""
    give_up_at = time.monotonic() + _PATIENCE_SECONDS
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < give_up_at:
            time.sleep(_PAUSE_SECONDS)
