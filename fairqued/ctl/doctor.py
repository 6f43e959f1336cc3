"""`doctor`: everything that can be found wrong with a server, a namespace and this host, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import click

from fairqued.connection import Connection
from fairqued.ctl import exits, render
from fairqued.ctl.control import NobodyListens
from fairqued.ctl.options import Asked, output_options, target_options
from fairqued.ctl.progress import Progress
from fairqued.ctl.render import Column, Output, Table
from fairqued.ctl.status import end
from fairqued.ctl.target import Target
from fairqued.daemon.config import Config, not_yet_in_effect
from fairqued.doctor.deep import deep_findings
from fairqued.doctor.finding import Finding, Severity, error, ok, warning
from fairqued.doctor.host import host_findings
from fairqued.doctor.namespace import namespace_findings
from fairqued.doctor.server import server_findings
from fairqued.errors import FairquedError, NotAllowed
from fairqued.store import Store

_TIMEOUT_SECONDS, _DEEP_TIMEOUT_SECONDS = 5.0, 60.0
_SHOWN_OF_A_CHECK = 20
_ADVICE = {
    True: "start it, or name the configuration that it runs with",
    False: "see its log, and whether it is stopped or hangs; a new start loses nothing",
}
"""By whether nobody listens, or somebody does who says nothing."""
_WORST_FIRST = (Severity.ERROR, Severity.WARNING, Severity.OK)
_COLUMNS = (Column("SEVERITY", is_state=True), Column("CHECK"), Column("FOUND"), Column("WHAT TO DO"))


@click.command(short_help="Find what is wrong, and say what to do.")
@target_options
@output_options
@click.option("--deep", is_flag=True, help="Read every key of the namespace too, and check that all of it is sound.")
@click.pass_obj
def doctor(asked: Asked, deep: bool) -> None:  # noqa: FBT001 - click's form
    """Find what is wrong with Redis, the namespace and this host, and say what to do.

    --deep reads the whole namespace into memory: at once where the server has 10,000 keys at most; else a thousand at a
    time, and what it finds it looks at again, so that tasks on their way are not taken for damage. Nothing is changed.

    Ends with 0 if there is
    neither an error nor a warning, with 1 if there is; with 4 if there should be a daemon and none answers, and with 5
    if Redis does not answer, and still shows what could be found.
    """
    output = asked.output_among(Output.TABLE, Output.JSON, Output.JSONL)
    target = asked.target()
    findings, troubles = examine(target, deep=deep)
    _show(findings, output)
    is_well = all(finding.severity is Severity.OK for finding in findings)
    end(target, troubles, otherwise=exits.OK if is_well else exits.NEGATIVE)


def examine(target: Target, *, deep: bool) -> tuple[list[Finding], list[FairquedError]]:
    """What was found, the worst first, and who does not answer."""
    findings: list[Finding] = []
    troubles: list[FairquedError] = []
    daemon: Mapping[str, Any] | None = None
    if target.control_socket is not None:
        try:
            daemon = target.ask_daemon("status")
        except FairquedError as trouble:
            troubles.append(trouble)
            findings.append(error("control", str(trouble), _ADVICE[isinstance(trouble, NobodyListens)]))
    findings += _of_daemon(daemon) if daemon else []
    findings += _of_config(target.config, daemon) if target.config else []
    for question in (_of_server, _of_namespace, *((_of_every_key,) if deep else ())):
        try:
            findings += question(target)
        except FairquedError as trouble:
            troubles.append(trouble)
            findings.append(error("redis", str(trouble), "until it answers no task is accepted"))
            break
    return sorted(findings, key=lambda finding: _WORST_FIRST.index(finding.severity)), troubles


def _of_daemon(daemon: Mapping[str, Any]) -> Iterator[Finding]:
    yield ok("control", f"the daemon with pid {daemon['pid']} answers: {daemon['phase']}")
    for worker in daemon["workers"]:
        if worker.get("trouble"):
            yield error(
                "workers", f"worker {worker['title']} cannot boot: {worker['trouble']}",
                "put it right, and `fairquectl reload`",
            )  # fmt: skip
    if trouble := daemon["rollout"]["trouble"]:
        yield error("reload", f"workers are not replaced: {trouble}", "put it right, and `fairquectl reload`")
    if not daemon["redis"]["reachable"]:
        away = render.duration(daemon["redis"]["away_seconds"])
        yield error("reach", f"the daemon has not reached Redis for {away}", "its log says why")


def _of_config(config: Config, daemon: Mapping[str, Any] | None) -> Iterator[Finding]:
    if later := not_yet_in_effect(config):
        yield warning("settings", f"set, but not in effect in this release: {', '.join(later)}", "do not count on them")
    yield from host_findings(
        config.state_dir, holds_data=config.redis.url == "embedded", daemon_pid=daemon["pid"] if daemon else None
    )


def _of_server(target: Target) -> list[Finding]:
    with closing(Connection(target.url, timeout_seconds=_TIMEOUT_SECONDS)) as connection:
        return connection.once(
            lambda client: server_findings(client, target.namespace, is_private=target.lives_with_daemon)
        )


def _of_namespace(target: Target) -> list[Finding]:
    with closing(Connection(target.url, timeout_seconds=_TIMEOUT_SECONDS)) as connection:
        try:
            return namespace_findings(Store(connection, target.namespace))
        except NotAllowed as refusal:
            return [_unreadable(refusal)]


def _of_every_key(target: Target) -> list[Finding]:
    with closing(Connection(target.url, timeout_seconds=_DEEP_TIMEOUT_SECONDS)) as connection, Progress() as progress:
        try:
            return connection.once(
                lambda client: deep_findings(
                    client, target.namespace, tell=lambda done, of: progress.show(f"{done} of {of} keys read")
                )
            )
        except NotAllowed as refusal:
            return [_unreadable(refusal)]


def _unreadable(refusal: NotAllowed) -> Finding:
    return warning("namespace", f"it cannot be looked at: {refusal}", "ask as a user that may read its keys")


# Printing


def _show(findings: Sequence[Finding], output: Output) -> None:
    documents = [finding._asdict() for finding in findings]
    match output:
        case Output.JSON:
            count = Counter(finding.severity for finding in findings)
            numbers = {"errors": count[Severity.ERROR], "warnings": count[Severity.WARNING]}
            render.print_json({**numbers, "findings": documents})
        case Output.JSONL:
            render.print_json_lines({"kind": "finding", **document} for document in documents)
        case _:
            render.print_tables([Table(_COLUMNS, list(_rows(findings)))], wide=True)


def _rows(findings: Sequence[Finding]) -> Iterator[tuple[str, ...]]:
    """Some of each check: damage may have thousands of them."""
    of_check: Counter[str] = Counter()
    for finding in findings:
        of_check[finding.code] += 1
        if of_check[finding.code] <= _SHOWN_OF_A_CHECK:
            yield finding.severity, finding.code, finding.what, finding.advice
    for code, number in of_check.items():
        if number > _SHOWN_OF_A_CHECK:
            yield "", code, f"… and {number - _SHOWN_OF_A_CHECK} more", "--json shows all"
