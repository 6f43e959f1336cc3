"""`config`, `print` and `version`: what is installed and configured here."""

from __future__ import annotations

import platform
from importlib.metadata import version as version_of
from pathlib import PurePath
from typing import Any

import click
import msgspec
import yaml

from fairqued import assets
from fairqued.connection import masked
from fairqued.ctl import render
from fairqued.ctl.options import Asked, output_options, target_options
from fairqued.ctl.render import Output
from fairqued.daemon.config import Config
from fairqued.version import __version__

_SHIPPED = {"unit": ("systemd", "fairqued.service"), "config": ("etc", "fairqued.yaml")}


@click.command()
@target_options
@output_options
@click.pass_obj
def config(asked: Asked) -> None:
    """Print the effective configuration.

    That is every setting as files, environment and defaults make it, with passwords masked. What is printed is itself a
    configuration.
    """
    output = asked.output_among(Output.TABLE, Output.JSON)
    settings = plain(asked.config())
    if output is Output.JSON:
        render.print_json(settings)
    else:
        click.echo(yaml.safe_dump(_for_yaml(settings), sort_keys=False, allow_unicode=True), nl=False)


@click.command("print")
@click.argument("what", type=click.Choice(list(_SHIPPED)))
def print_shipped(what: str) -> None:
    """Write out a file that comes with fairqued.

    The systemd unit, or the commented configuration with all defaults.
    """
    click.echo(assets.read_text(*_SHIPPED[what]), nl=False)


@click.command()
@output_options
@click.pass_obj
def version(asked: Asked) -> None:
    """Print the version.

    With -o json also those of Python and of the Redis client.
    """
    if asked.output_among(Output.TABLE, Output.JSON) is Output.JSON:
        render.print_json(
            {"fairqued": __version__, "python": platform.python_version(), "redis_client": version_of("redis")}
        )
    else:
        click.echo(f"fairquectl {__version__}")


def plain(settings: Config) -> dict[str, Any]:
    """A configuration as lists, mappings and text, without secrets."""
    made: dict[str, Any] = msgspec.to_builtins(settings, enc_hook=_path_to_text)
    made["redis"]["url"] = masked(settings.redis.url)
    return made


def _path_to_text(value: Any) -> str:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{value!r} has no form in YAML")


def _for_yaml(value: Any) -> Any:
    """Texts as they have to stand in a file, where `${` would name a variable."""
    if isinstance(value, str):
        return value.replace("${", "$${")
    if isinstance(value, dict):
        return {key: _for_yaml(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_for_yaml(each) for each in value]
    return value
