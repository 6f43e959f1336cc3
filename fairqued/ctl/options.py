"""The options that commands share. They may stand before or after the command's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from fairqued.ctl.render import Output
from fairqued.ctl.target import Target, find_target, load_config
from fairqued.daemon.config import Config


@dataclass
class Asked:
    """What was asked for, by options before the command's name and after it."""

    files: tuple[Path, ...] = ()
    redis: str | None = None
    namespace: str | None = None
    output: Output | None = None

    def target(self) -> Target:
        """What to look at. Raises ConfigError."""
        return find_target(self.files, self.redis, self.namespace)

    def config(self) -> Config:
        """The configuration of a daemon. Raises ConfigError, also if a Redis was named instead."""
        if self.redis or self.namespace:
            raise click.UsageError("this command is about a configuration: give --config, not --redis or --namespace")
        return load_config(self.files)

    def output_among(self, *known: Output) -> Output:
        """The form to print in: the first that the command knows, if none was asked for."""
        wanted = self.output or known[0]
        if wanted not in known:
            raise click.UsageError(f"-o {wanted.value}: this command knows {', '.join(known)}")
        return wanted


def _noting(field: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """A callback that keeps what an option said, unless it was not given here."""

    def note(context: click.Context, parameter: click.Parameter, value: Any) -> None:  # noqa: ARG001 - click's form
        asked = context.ensure_object(Asked)
        if value:
            setattr(asked, field, value)

    return note


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--config, --redis and --namespace."""
    for option in reversed((
        click.option("--config", "-c", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
                     callback=_noting("files"), expose_value=False,
                     help="The daemon's configuration, as for fairqued; may be given more than once. "
                          "Default: $FAIRQUED_CONFIG, /etc/fairqued/fairqued.yaml."),
        click.option("--redis", metavar="URL", callback=_noting("redis"), expose_value=False,
                     help="Instead of a configuration, from anywhere: the URL of Redis [$FAIRQUED_REDIS_URL]."),
        click.option("--namespace", metavar="NAME", callback=_noting("namespace"), expose_value=False,
                     help="With --redis: the namespace [$FAIRQUED_NAMESPACE, else fairque]."),
    )):  # fmt: skip
        command = option(command)
    return command


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """-o FORM and --json."""
    note = _noting("output")
    for option in (
        click.option("--json", is_flag=True, expose_value=False, help="Short for -o json.",
                     callback=lambda context, it, given: note(context, it, Output.JSON if given else None)),
        click.option("--output", "-o", type=click.Choice([form.value for form in Output]), expose_value=False,
                     callback=lambda context, it, form: note(context, it, Output(form) if form else None),
                     help="How to print. table and wide are for people, the others for programs."),
    ):  # fmt: skip
        command = option(command)
    return command
