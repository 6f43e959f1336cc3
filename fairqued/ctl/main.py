"""The program `fairquectl`: the frame that its commands hang in."""

from __future__ import annotations

import sys
import traceback
from typing import Any, NoReturn

import click

from fairqued.ctl import doctor, exits, installation, render, status, steer
from fairqued.ctl.options import Asked, output_options, target_options
from fairqued.errors import FairquedError
from fairqued.version import __version__


class _Frame(click.Group):
    """A group whose errors end in one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FairquedError as error:
            _fail(str(error), exits.code_of(error))
        except (click.ClickException, click.exceptions.Exit, click.Abort, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - an operator is told where it broke, not shown a traceback
            at = traceback.extract_tb(error.__traceback__)[-1]
            _fail(f"this is a bug: {type(error).__name__} at {at.filename}:{at.lineno}: {error}", exits.NEGATIVE)


def _fail(message: str, code: int) -> NoReturn:
    render.print_error(message)
    sys.exit(code)


@click.group(cls=_Frame, epilog=exits.IN_WORDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fairquectl")
@target_options
@output_options
@click.pass_context
def cli(context: click.Context) -> None:
    """Look at and steer fairqued: its daemon on this host, and its tasks in Redis anywhere.

    The shared options may stand before or after the command.
    """
    context.ensure_object(Asked)


for command in (
    status.status, status.ping, doctor.doctor, steer.reload, steer.scale, steer.drain,
    installation.config, installation.print_shipped, installation.version,
):  # fmt: skip
    cli.add_command(command)
for each in cli.commands.values():
    each.epilog = exits.IN_WORDS


def main() -> None:
    """Entry point."""
    cli()


if __name__ == "__main__":
    main()
