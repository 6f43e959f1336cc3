"""The configuration of the daemon: `load(find_config_paths(given, os.environ), os.environ)` makes a `Config`."""

from fairqued.daemon.config.address import redis_url
from fairqued.daemon.config.cpus import usable_cpus
from fairqued.daemon.config.loading import find_config_paths, load
from fairqued.daemon.config.notyet import not_yet_in_effect
from fairqued.daemon.config.settings import (
    Config,
    ControlSettings,
    FairnessSettings,
    GroupSettings,
    HeadStarts,
    LimitSettings,
    LoggingSettings,
    MetricsSettings,
    PoolSettings,
    QueueSettings,
    RedisSettings,
    RetentionSettings,
    SchedulerSettings,
    ScheduleSettings,
    SecuritySettings,
    TaskDefaults,
    UserDefaults,
    UserSettings,
    WorkerSettings,
    default_state_dir,
)
from fairqued.daemon.config.values import tokens_per_second

__all__ = [
    "Config",
    "ControlSettings",
    "FairnessSettings",
    "GroupSettings",
    "HeadStarts",
    "LimitSettings",
    "LoggingSettings",
    "MetricsSettings",
    "PoolSettings",
    "QueueSettings",
    "RedisSettings",
    "RetentionSettings",
    "ScheduleSettings",
    "SchedulerSettings",
    "SecuritySettings",
    "TaskDefaults",
    "UserDefaults",
    "UserSettings",
    "WorkerSettings",
    "default_state_dir",
    "find_config_paths",
    "load",
    "not_yet_in_effect",
    "redis_url",
    "tokens_per_second",
    "usable_cpus",
]
