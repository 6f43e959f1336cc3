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
from fairqued.ctl import acl, render
from fairqued.ctl.options import Asked, output_options, target_options
from fairqued.ctl.render import Output
from fairqued.daemon.config import Config
from fairqued.version import __version__

_SHIPPED = {
    "unit": ("systemd", "fairqued.service"),
    "relaxed": ("systemd", "fairqued.service.d", "relaxed.conf"),
    "sysusers": ("systemd", "sysusers.d", "fairqued.conf"),
    "tmpfiles": ("systemd", "tmpfiles.d", "fairqued.conf"),
    "config": ("etc", "fairqued.yaml"),
}


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
        click.echo(_as_yaml(_for_yaml(settings)), nl=False)


@click.command("print")
@click.argument("what", type=click.Choice([*_SHIPPED, "acl"]))
@click.option("--user-prefix", default=acl.DEFAULT_USER_PREFIX, show_default=True, metavar="TEXT",
              help="With acl: how the names of the users begin.")  # fmt: skip
@target_options
@click.pass_obj
def print_shipped(asked: Asked, what: str, user_prefix: str) -> None:
    """Write out a file that comes with fairqued.

    The systemd unit, and with it a drop-in that relaxes its sandbox, its user (for sysusers.d) and the folder of its
    configuration (for tmpfiles.d). Or config: the commented configuration with all defaults. Or acl: users for an ACL
    file of Redis, with the rights that client, worker, operator and a read-only one need in the namespace of the
    options.
    """
    if what == "acl":
        render.print_lines(acl.rules(acl.namespace_of(asked.files, asked.namespace), user_prefix))
    else:
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


def _as_yaml(settings: Any) -> str:
    """With letters of all languages as they are, unless a terminal would act upon some character."""
    texts = (yaml.safe_dump(settings, sort_keys=False, allow_unicode=readable) for readable in (True, False))
    return next(text for text in texts if text.replace("\n", "").isprintable())


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
