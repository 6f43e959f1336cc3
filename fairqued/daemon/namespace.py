"""What a daemon's configuration says about its namespace: for configure.lua, and for the scheduler's chores."""

from __future__ import annotations

import hashlib

import orjson

from fairqued.daemon.config import Config
from fairqued.scheduler.scheduler import Settings as SchedulerSettings
from fairqued.state import Priority
from fairqued.store import Store

_APPLIED_LIMITS = ("weight", "max_running")


def apply(store: Store, config: Config) -> bool:
    """Apply the configuration where it differs from what was applied last; False if nothing changed.

    Raises SchemaTooNew, QueueUnavailable.
    """
    users = {user_id: orjson.dumps(limits) for user_id, limits in _users(config).items()}
    return store.configure(_digest(config), _meta(config), users)


def says_the_same(one: Config, other: Config) -> bool:
    """Whether there is nothing to apply: what another daemon, of another configuration, has applied meanwhile stays."""
    return _digest(one) == _digest(other)


def restore(store: Store, config: Config) -> None:
    """Apply the configuration again if Redis has lost it, and all else. Raises as `apply`."""
    if not store.is_configured():
        apply(store, config)


def _digest(config: Config) -> str:
    told = orjson.dumps([_meta(config), _users(config)], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(told).hexdigest()


def _meta(config: Config) -> dict[str, float]:
    heads = config.fairness.head_start_seconds
    meta: dict[str, float] = {
        f"head_start:{int(priority)}": int(getattr(heads, priority.name) * 1e6)
        for priority in Priority
        if priority is not Priority.CRITICAL
    }
    meta["critical_lead"] = int(config.fairness.critical_lead_seconds * 1e6)
    return meta | {name: getattr(config.user_defaults, name) for name in _APPLIED_LIMITS}


def _users(config: Config) -> dict[str, dict[str, dict[str, object]]]:
    given = {user_id: settings.given() for user_id, settings in config.users.items()}
    return {
        user_id: {name: {"value": limits[name], "origin": "yaml"} for name in _APPLIED_LIMITS if name in limits}
        for user_id, limits in given.items()
    }


def scheduler_settings(config: Config) -> SchedulerSettings:
    """What the scheduler's thread needs to know, in its own units."""
    keep = config.retention
    return SchedulerSettings(
        lease_us=int(config.worker.lease_seconds * 1e6),
        finished=(int(keep.finished_seconds * 1e6), keep.finished_max),
        failed=(int(keep.failed_seconds * 1e6), keep.failed_max),
        dedup_us=int(keep.dedup_seconds * 1e6),
        max_crashes=config.worker.max_crashes,
        queues=tuple(dict.fromkeys(queue for pool in config.pools for queue in pool.queue_names)),
        only_own_workers=not config.scheduler.enabled,
    )
