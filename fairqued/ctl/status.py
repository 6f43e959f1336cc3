"""`status` and `ping`: whether everything is there, and what it is doing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import click

from fairqued.ctl import exits, render
from fairqued.ctl.options import Asked, output_options, target_options
from fairqued.ctl.render import Column, Output, Table
from fairqued.ctl.target import Target
from fairqued.errors import FairquedError, NotAllowed, QueueUnavailable
from fairqued.info import QueueStats, WorkerInfo
from fairqued.keys import base_queue

Row = dict[str, Any]

_WORKER_COLUMNS = (
    Column("WORKER"), Column("PID", is_number=True), Column("PHASE", is_state=True), Column("AGE", is_number=True),
    Column("HELD", is_number=True), Column("LEASE", is_number=True), Column("HOST", only_wide=True),
    Column("QUEUES", only_wide=True), Column("ID", only_wide=True),
)  # fmt: skip
_EVER = {"queued": "enqueued"}
"""The counter that belongs to a state, where its name is another one."""


@dataclass
class Status:
    """What was found, as one document, and what was not, in one line each."""

    document: dict[str, Any]
    troubles: list[FairquedError] = field(default_factory=list)


@click.command()
@target_options
@output_options
@click.option("--users", "most_users", type=click.IntRange(0, 10_000), default=20, show_default=True, metavar="N",
              help="How many users of each queue to list: those that are served next.")  # fmt: skip
@click.pass_obj
def status(asked: Asked, most_users: int) -> None:
    """Show the daemon, its workers, and what waits.

    Depth by queue and by user, how many tasks are in each state, and how many ever came there. -o id prints the ids of
    the workers. Ends with 4 if there should be a daemon and none answers, and still shows what Redis tells; with 5 if
    Redis does not answer.
    """
    output = asked.output_among(Output.TABLE, Output.WIDE, Output.JSON, Output.JSONL, Output.ID)
    target = asked.target()
    found = collect(target, most_users)
    _show(found.document, output)
    end(target, found.troubles)


@click.command()
@target_options
@output_options
@click.pass_obj
def ping(asked: Asked) -> None:
    """Ask the daemon and Redis for a sign of life.

    Ends with 0 if both answer, 4 if the daemon does not, 5 if Redis does not.
    """
    output = asked.output_among(Output.TABLE, Output.JSON, Output.JSONL)
    target = asked.target()
    parties: list[tuple[str, Any, Callable[[], Any]]] = [("redis", target.shown_url, target.ping_redis)]
    if target.control_socket is not None:
        parties.insert(0, ("daemon", str(target.control_socket), lambda: target.ask_daemon("ping")))
    rows, troubles = [], []
    for name, place, call in parties:
        row, trouble = _pinged(name, place, call)
        rows.append(row)
        troubles += trouble
    _show_pings(rows, output)
    end(target, troubles)


def _pinged(name: str, place: str, call: Callable[[], Any]) -> tuple[Row, list[FairquedError]]:
    started = time.perf_counter()
    try:
        call()
    except FairquedError as error:
        return {"name": name, "answers": False, "milliseconds": None, "place": place}, [error]
    took = round((time.perf_counter() - started) * 1000, 1)
    return {"name": name, "answers": True, "milliseconds": took, "place": place}, []


def _show_pings(rows: list[Row], output: Output) -> None:
    if output is Output.TABLE:
        columns = (Column(""), Column("", is_state=True), Column("", is_number=True), Column(""))
        cells = [
            (row["name"], "answers" if row["answers"] else "does not answer",
             f"{row['milliseconds']} ms" if row["answers"] else "", row["place"])
            for row in rows
        ]  # fmt: skip
        render.print_tables([Table(columns, cells)], wide=False)
    elif output is Output.JSONL:
        render.print_json_lines(rows)
    else:
        render.print_json({row.pop("name"): row for row in rows})


def end(target: Target, troubles: list[FairquedError], otherwise: int = exits.OK) -> NoReturn:
    """Tell who does not answer, and exit with the worst code. An embedded Redis is gone because its daemon is."""
    if target.lives_with_daemon:
        troubles = [each for each in troubles if isinstance(each, exits.DaemonNotRunning)] or troubles
    for trouble in troubles:
        render.print_error(str(trouble))
    sys.exit(max(map(exits.code_of, troubles), default=otherwise))


# Gathering


def collect(target: Target, most_users: int) -> Status:
    """Ask the daemon, if one is known, and Redis."""
    troubles: list[FairquedError] = []
    daemon, stats = None, None
    if target.control_socket is not None:
        try:
            daemon = target.ask_daemon("status")
        except FairquedError as error:
            troubles.append(error)
    try:
        stats = target.queue.stats(most_users=most_users)
    except (QueueUnavailable, NotAllowed) as error:
        troubles.append(error)
    posts = daemon.pop("workers", []) if daemon else []
    return Status(
        {
            "daemon": {"running": True, **daemon} if daemon else {"running": False} if target.control_socket else None,
            "redis": {"reachable": stats is not None, "url": target.shown_url, "namespace": target.namespace},
            "workers": list(_workers(posts, stats.workers if stats else [])),
            **(_of_stats(stats) if stats else {}),
        },
        troubles,
    )


def _of_stats(stats: QueueStats) -> dict[str, Any]:
    return {
        "queues": [{"queue": queue, "waiting": waiting} for queue, waiting in sorted(stats.depth.items())],
        "users": [
            {"queue": user.queue, "user_id": user.user_id, "waiting": user.waiting, "running": user.running,
             "parked": user.is_parked}
            for user in stats.users
        ],
        "tasks": {
            "queued": sum(stats.depth.values()), "scheduled": stats.scheduled, "started": stats.started,
            "finished": stats.finished, "failed": stats.failed, "cancelled": stats.cancelled,
        },
        "counters": dict(stats.counters),
    }  # fmt: skip


def is_hidden(worker: Mapping[str, Any]) -> bool:
    """Whether a worker serves a hidden queue: tasks that are suspected of killing their process, one at a time."""
    queues = worker["queues"] or ()
    return bool(queues) and all(base_queue(queue) != queue for queue in queues)


def _workers(posts: list[Row], registered: list[WorkerInfo] | Any) -> Iterator[Row]:
    """The daemon's own workers in its order, each with what Redis knows; then those of other daemons."""
    known = {worker.worker_id: worker for worker in registered}
    for post in posts:
        yield _worker(post, known.pop(post.get("worker_id", ""), None))
    for worker in known.values():
        yield _worker({"worker_id": worker.worker_id}, worker)


def _worker(post: Row, registered: WorkerInfo | None) -> Row:
    info: Mapping[str, Any] = registered.info if registered else {}
    phase = "vacant" if post.get("phase") == "waiting" else post.get("phase")
    queues = post.get("queues", info.get("queues"))
    return {
        "worker_id": post.get("worker_id"),
        "title": post.get("title"),
        "pool": post.get("pool", info.get("pool")),
        "queues": queues,
        "hidden": is_hidden({"queues": queues}),
        "host": info.get("host"),
        "pid": post.get("pid", info.get("pid")),
        "phase": phase or ("registered" if registered and registered.lease_seconds > 0 else "lease over"),
        "age_seconds": post.get("age_seconds"),
        "held": registered.held if registered else None,
        "lease_seconds": round(registered.lease_seconds, 3) if registered else None,
        "trouble": post.get("trouble") or None,
    }


# Printing


def _show(document: dict[str, Any], output: Output) -> None:
    match output:
        case Output.JSON:
            render.print_json(document)
        case Output.JSONL:
            render.print_json_lines(_objects(document))
        case Output.ID:
            render.print_lines(worker["worker_id"] for worker in document["workers"] if worker["worker_id"])
        case _:
            render.print_tables(list(_tables(document)), wide=output is Output.WIDE)


def _objects(document: dict[str, Any]) -> Iterator[Row]:
    """The document as objects that name their kind."""
    for kind in ("daemon", "redis", "tasks", "counters"):
        if document.get(kind) is not None:
            yield {"kind": kind, **document[kind]}
    for kind in ("workers", "queues", "users"):
        for row in document.get(kind, ()):
            yield {"kind": kind.removesuffix("s"), **row}


def _tables(document: dict[str, Any]) -> Iterator[Table]:
    yield Table((Column(""), Column("", is_state=True), Column("")), list(_head(document)))
    if document["workers"]:
        yield Table(_WORKER_COLUMNS, [_worker_cells(worker) for worker in document["workers"]])
    if "tasks" not in document:
        return
    if document["queues"]:
        columns = (Column("QUEUE"), Column("WAITING", is_number=True))
        yield Table(columns, [(row["queue"], row["waiting"]) for row in document["queues"]])
    if document["users"]:
        numbers = [Column(title, is_number=True) for title in ("WAITING", "RUNNING")]
        yield Table(
            (Column("USER"), Column("QUEUE"), *numbers, Column("PARKED")),
            [(row["user_id"], row["queue"], row["waiting"], row["running"], "yes" if row["parked"] else "no")
             for row in document["users"]],
        )  # fmt: skip
    columns_of_tasks = (Column("TASKS"), Column("NOW", is_number=True), Column("EVER", is_number=True))
    yield Table(columns_of_tasks, list(_task_rows(document["tasks"], document["counters"])))


def _head(document: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    daemon, redis = document["daemon"], document["redis"]
    if daemon is not None:
        yield "daemon", *(_daemon_words(daemon) if daemon["running"] else ("does not answer", ""))
        yield from _rollout_words(daemon.get("rollout"))
    reachable = "reachable" if redis["reachable"] else "not reachable"
    yield "redis", reachable, f"{redis['url']}, namespace {redis['namespace']}"
    for worker in document["workers"]:
        if worker["trouble"]:
            yield worker["title"], "cannot boot", worker["trouble"]


def _daemon_words(daemon: dict[str, Any]) -> tuple[str, str]:
    words = f"pid {daemon['pid']}, up {render.duration(daemon['uptime_seconds'])}, state in {daemon['state_dir']}"
    redis = daemon["redis"]
    if not redis["reachable"]:
        words += f", has not reached Redis for {render.duration(redis['away_seconds'])}"
    return daemon["phase"], words


def _rollout_words(rollout: Row | None) -> Iterator[tuple[str, str, str]]:
    if rollout and rollout["left"]:
        words = f"round {rollout['round']}, {rollout['left']} workers still to be replaced"
        trouble = rollout["trouble"]
        yield "reload", "stuck" if trouble else "under way", f"{words}: {trouble}" if trouble else words


def _worker_cells(worker: Row) -> tuple[Any, ...]:
    age, lease = (
        None if worker[name] is None else render.duration(worker[name]) for name in ("age_seconds", "lease_seconds")
    )
    return (
        worker["title"] or f"{worker['pool'] or '?'} on {worker['host'] or '?'}", worker["pid"], worker["phase"], age,
        worker["held"], lease, worker["host"], ",".join(worker["queues"] or ()), worker["worker_id"],
    )  # fmt: skip


def _task_rows(tasks: Mapping[str, int], counters: Mapping[str, int]) -> Iterator[tuple[Any, ...]]:
    """States with how many stand there now and ever came there; then the other counters."""
    ever = {_EVER.get(state, state): state for state in tasks}
    for counter, state in ever.items():
        yield state, tasks[state], None if state == "scheduled" else counters.get(counter, 0)
    for counter in sorted(counters.keys() - ever.keys()):
        yield counter, None, counters[counter]
