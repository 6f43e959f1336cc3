"""What settings have to be to each other, beyond what each is by itself."""

from collections.abc import Callable
from typing import NamedTuple

from fairqued.daemon.config.settings import (
    Config,
    PoolSettings,
    QueueSettings,
    RedisSettings,
    RetentionSettings,
    WorkerSettings,
)


class Rule(NamedTuple):
    """What settings of one group have to be to each other: asked once each of `needs` is right by itself."""

    needs: tuple[str, ...]
    problem: Callable[..., str | None]


def _lease_and_heartbeat(lease_seconds: float, heartbeat_seconds: float) -> str | None:
    if lease_seconds >= 3 * heartbeat_seconds:
        return None
    return (
        f"expected lease_seconds to be at least 3 times heartbeat_seconds, "
        f"found {lease_seconds:g} and {heartbeat_seconds:g}"
    )


def _wedged_and_heartbeat(wedged_seconds: float, heartbeat_seconds: float) -> str | None:
    if wedged_seconds >= 3 * heartbeat_seconds:
        return None
    return (
        f"expected wedged_seconds to be at least 3 times heartbeat_seconds, "
        f"found {wedged_seconds:g} and {heartbeat_seconds:g}"
    )


def _distinct_queues(queues: tuple[str | QueueSettings, ...] | dict[str, float]) -> str | None:
    names = PoolSettings(queues=queues).queue_names
    if not names:
        return "expected at least one queue, found none"
    twice = sorted({name for name in names if names.count(name) > 1})
    return f"expected each queue once, found twice: {', '.join(twice)}" if twice else None


def _one_domain_each(pools: tuple[PoolSettings, ...]) -> str | None:
    seen: dict[str, str] = {}
    for pool in pools:
        for queue, domain in pool.queue_domains.items():
            if (other := seen.setdefault(queue, domain)) != domain:
                return f'expected one domain for queue "{queue}", found "{other}" and "{domain}"'
    return None


def _dedup_outlives_retries(retention: RetentionSettings, redis: RedisSettings) -> str | None:
    if retention.dedup_seconds > redis.timeout_seconds:
        return None
    return (
        f"expected dedup_seconds to be more than redis.timeout_seconds, or a client's repeated call makes a second "
        f"task; found {retention.dedup_seconds:g} and {redis.timeout_seconds:g}"
    )


RULES: dict[type, tuple[Rule, ...]] = {
    WorkerSettings: (
        Rule(("lease_seconds", "heartbeat_seconds"), _lease_and_heartbeat),
        Rule(("wedged_seconds", "heartbeat_seconds"), _wedged_and_heartbeat),
    ),
    PoolSettings: (Rule(("queues",), _distinct_queues),),
    Config: (Rule(("pools",), _one_domain_each), Rule(("retention", "redis"), _dedup_outlives_retries)),
}
