"""The settings that this release accepts and checks, but does nothing about yet."""

from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct
from msgspec.structs import fields

from fairqued.daemon.config.settings import Config, default_of


def _is_set(value: object, default: object) -> bool:
    return value is not None and value != default


def _has_weights(value: object, _default: object) -> bool:
    return isinstance(value, dict)


NOT_YET_IN_EFFECT: dict[str, Callable[[object, object], bool]] = {
    "redis.wait_replicas": _is_set,
    "partitions": _is_set,
    "middleware": _is_set,
    "pools[].queues": _has_weights,
    "pools[].queues[].domain": _is_set,
    "pools[].async_slots": _is_set,
    "fairness.group_separator": _is_set,
    "user_defaults.max_queued": _is_set,
    "user_defaults.rate": _is_set,
    "user_defaults.max_share": _is_set,
    "users[].max_queued": _is_set,
    "users[].rate": _is_set,
    "users[].max_share": _is_set,
    "groups": _is_set,
    "task_defaults.max_retries": _is_set,
    "limits.payload_bytes": _is_set,
    "limits.max_queued_per_queue": _is_set,
    "metrics.listen": _is_set,
    "schedules": _is_set,
}
"""Settings that are accepted and checked, but that this release does nothing about, and when one counts as set.

A release that puts one of them into effect deletes its line here and the mark beside it in docs/configuration.md.
"""


def not_yet_in_effect(config: Config) -> list[str]:
    """Return the dotted names of the settings that are set, but not yet in effect in this release."""
    return [
        name
        for pattern, counts in NOT_YET_IN_EFFECT.items()
        for name, value, default in _settings(config, pattern)
        if counts(value, default)
    ]


def _settings(group: Struct, pattern: str, prefix: str = "") -> Iterator[tuple[str, object, object]]:
    """Yield the full name, the value and the default of each setting that a pattern names."""
    head, _, rest = pattern.partition(".")
    name = head.removesuffix("[]")
    value = getattr(group, name)
    if not rest:
        yield prefix + name, value, next(default_of(each) for each in fields(group) if each.name == name)
    elif head == name:
        yield from _settings(value, rest, f"{prefix}{name}.")
    else:
        for entry_name, entry in _entries(value, prefix + name):
            if isinstance(entry, Struct):
                yield from _settings(entry, rest, f"{entry_name}.")


def _entries(value: Any, name: str) -> list[tuple[str, object]]:
    if isinstance(value, dict):
        return [(f"{name}.{key}", entry) for key, entry in value.items()]
    return [(f"{name}[{index}]", entry) for index, entry in enumerate(value)]
