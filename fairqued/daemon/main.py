"""The program `fairqued`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NoReturn

import click

from fairqued.daemon import exits, signals
from fairqued.daemon.config import Config, find_config_paths, load
from fairqued.errors import ConfigError, FairquedError
from fairqued.terminal import escaped_lines
from fairqued.version import __version__

_EPILOG = (
    "Exit codes: 0 stopped in good order; 2 wrong usage or configuration; 5 Redis not reachable; "
    "6 state directory not usable, or used by another daemon; 1 anything else."
)


@click.group(invoke_without_command=True, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fairqued")
@click.option("--config", "-c", "files", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
              help="Configuration, may be given more than once: later files add to and override earlier ones. "
                   "Default: $FAIRQUED_CONFIG (colon-separated), else /etc/fairqued/fairqued.yaml.")  # fmt: skip
@click.option("--check", is_flag=True, help="Check the configuration, print OK or every mistake, and exit.")
@click.pass_context
def cli(context: click.Context, files: tuple[Path, ...], *, check: bool) -> None:
    """Run the fairqued daemon in the foreground: it forks workers, and runs the tasks of its queues fairly."""
    if context.invoked_subcommand:
        return
    load_again = partial(_load, dict(os.environ), files)
    config = _or_fail(load_again)
    if check:
        click.echo("OK")
        return
    _run(config, load_again)


@cli.command(short_help="Run the tasks of MODULE for development.")
@click.argument("module")
@click.option("--state-dir", type=click.Path(path_type=Path), help="Where its data is kept [default: .fairqued].")
@click.option("--threads", type=click.IntRange(1), default=4, show_default=True, help="Tasks that run at once.")
@click.option("--reload", "reloads", is_flag=True, help="Replace the worker when a Python file here changes.")
def dev(module: str, state_dir: Path | None, threads: int, *, reloads: bool) -> None:
    """Run the tasks of MODULE for development: one worker process, an embedded Redis, logs as text."""
    place = (state_dir or Path(".fairqued")).resolve()
    environ = {
        "FAIRQUED_REDIS_URL": "embedded",
        "FAIRQUED_IMPORTS": module,
        "FAIRQUED__STATE_DIR": str(place),
        "FAIRQUED__POOLS": f"[{{name: default, processes: 1, threads: {threads}}}]",
        "FAIRQUED__LOGGING__FORMAT": "text",
    }
    click.echo(f"export FAIRQUED_REDIS_URL=fairqued://{place}", err=True)
    load_again = partial(_load, environ)
    _run(_or_fail(load_again), load_again, ends_if_boot_fails=not reloads, watches_sources=reloads)


@cli.command()
@click.option("--files", type=click.IntRange(100), metavar="N", help="At most N files for the big user [default: all].")
@click.option("--state-dir", type=click.Path(path_type=Path), metavar="DIR",
              help="Keep its data in this empty folder [default: a temporary one, removed at the end].")  # fmt: skip
def demo(files: int | None, state_dir: Path | None) -> None:
    """Show the main job on real files, live, in less than a minute.

    Starts a daemon with an embedded Redis and lets it count the files of Python's standard library: nearly 2,000 tasks
    of one user, a few of two others, an urgent one. Kills a worker on the way. Then shows who waited how long, and
    checks that every file was counted exactly once. Exit code 0: every check holds.
    """
    from fairqued.demo.demo import run_demo  # noqa: PLC0415 - the daemon needs none of it

    try:
        sys.exit(run_demo(most_files=files, state_dir=state_dir))
    except ConfigError as error:
        _fail(str(error), exits.BAD_USAGE)
    except FairquedError as error:
        _fail(str(error), exits.FAILED)


def _load(environ: Mapping[str, str], files: tuple[Path, ...] | None = None) -> Config:
    """The configuration of the files that were given or are found; without any it is that of `environ` alone."""
    return load([] if files is None else find_config_paths(files, environ), environ)


def _or_fail(load_config: Callable[[], Config]) -> Config:
    try:
        return load_config()
    except ConfigError as error:
        _fail(str(error), exits.BAD_USAGE)


def _run(config: Config, load_again: Callable[[], Config], **how: bool) -> None:
    signals.postpone_stops()
    from fairqued.daemon.run import run_daemon  # noqa: PLC0415 - `--check` and `--help` need none of it

    try:
        run_daemon(config, load_again, **how)
    except exits.Failure as failure:
        _fail(str(failure), failure.exit_code)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"fairqued: {escaped_lines(message)}", err=True)
    sys.exit(code)


def main() -> None:
    """Entry point."""
    signals.postpone_orders()
    cli()


if __name__ == "__main__":
    main()
