"""The settings of the daemon: every key of the YAML with its type and default. `load` makes a `Config`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import NODEFAULT, UNSET, UnsetType, field
from msgspec.structs import FieldInfo, asdict, replace

from fairqued.daemon.config.cpus import usable_cpus
from fairqued.daemon.config.values import (
    Address,
    Amount,
    ClassName,
    Count,
    Cron,
    FileName,
    HeadStart,
    HeartbeatSeconds,
    Id,
    LeaseSeconds,
    ModuleName,
    Name,
    Namespace,
    Partitions,
    PayloadBytes,
    PositiveSeconds,
    Rate,
    RedisUrl,
    Retries,
    Seconds,
    Separator,
    Share,
    Timezone,
    Weight,
    split_address,
)
from fairqued.errors import ConfigError
from fairqued.keys import DEFAULT_NAMESPACE

MERGED_BY = {"pools": "name", "schedules": "id"}
"""The lists whose entries are merged over files by one of their keys, which is unique in the list."""

NO_STATE_DIR = "is required where none of $STATE_DIRECTORY, $XDG_STATE_HOME and $HOME is set"


def default_state_dir(environ: Mapping[str, str]) -> Path | None:
    """Return where the daemon keeps its state unless `state_dir` says so, None if nothing in `environ` tells."""
    if first := environ.get("STATE_DIRECTORY", "").split(":")[0]:
        return Path(first)
    if (state_home := environ.get("XDG_STATE_HOME", "")).startswith("/"):
        return Path(state_home, "fairqued")
    if home := environ.get("HOME"):
        return Path(home, ".local/state/fairqued")
    return None


def _state_dir_here() -> Path:
    if (path := default_state_dir(os.environ)) is None:
        raise ConfigError(f"state_dir: {NO_STATE_DIR}")
    return path


class _Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A group of settings."""


def default_of(setting: FieldInfo) -> Any:
    """Return the default of a setting, NODEFAULT if it is required."""
    return setting.default if setting.default_factory is NODEFAULT else setting.default_factory()


class RedisSettings(_Settings, frozen=True, kw_only=True):
    """Where the tasks are kept."""

    url: RedisUrl
    password_file: Path | None = None
    server_binary: FileName | None = None
    timeout_seconds: PositiveSeconds = 5.0
    start_timeout_seconds: PositiveSeconds = 30.0
    wait_replicas: Amount = 0


class QueueSettings(_Settings, frozen=True, kw_only=True):
    """A queue of a pool that shares the worker time of a domain with other queues."""

    name: Name
    domain: Name | None = None


class PoolSettings(_Settings, frozen=True, kw_only=True):
    """Worker processes with the same settings, and the queues they serve."""

    name: Name = "default"
    queues: tuple[Name | QueueSettings, ...] | dict[Name, Weight] = ("default",)
    processes: Count | Literal["auto"] = 2
    threads: Count = 8
    async_slots: Amount = 0
    handler: ClassName | None = None
    max_tasks: Amount = 0
    max_rss_mb: Amount = 0

    @property
    def queue_names(self) -> tuple[str, ...]:
        """The queues, in the order in which they were written: that of preference, unless they have weights."""
        return tuple(each.name if isinstance(each, QueueSettings) else each for each in self.queues)

    @property
    def queue_weights(self) -> dict[str, float] | None:
        """The weight of each queue, or None if they are in order of preference."""
        return dict(self.queues) if isinstance(self.queues, dict) else None

    @property
    def queue_domains(self) -> dict[str, str]:
        """The domain of each queue: its own name unless it was given one."""
        named = {each.name: each.domain or each.name for each in self.queues if isinstance(each, QueueSettings)}
        return {name: named.get(name, name) for name in self.queue_names}

    @property
    def process_count(self) -> int:
        """How many processes to run here; `auto` is one for each CPU that this process may use."""
        return usable_cpus() if self.processes == "auto" else self.processes


class WorkerSettings(_Settings, frozen=True, kw_only=True):
    """How workers live and die."""

    lease_seconds: LeaseSeconds = 15.0
    heartbeat_seconds: HeartbeatSeconds = 3.0
    drain_seconds: Seconds = 25.0
    boot_timeout_seconds: PositiveSeconds = 30.0
    wedged_seconds: PositiveSeconds = 600.0
    max_crashes: Count = 3
    unknown_function_seconds: Seconds = 3600.0


class SchedulerSettings(_Settings, frozen=True, kw_only=True):
    """Whether this daemon runs due schedules and the chores of the namespace."""

    enabled: bool = True


class HeadStarts(_Settings, frozen=True, kw_only=True):
    """How many seconds earlier a task of each priority counts as due. CRITICAL tasks have a FIFO of their own."""

    VERY_LOW: HeadStart = -600.0
    LOW: HeadStart = -120.0
    NORMAL: HeadStart = 0.0
    HIGH: HeadStart = 120.0
    VERY_HIGH: HeadStart = 600.0


class FairnessSettings(_Settings, frozen=True, kw_only=True):
    """How worker time is shared."""

    group_separator: Separator | None = None
    critical_lead_seconds: Seconds = 10.0
    head_start_seconds: HeadStarts = HeadStarts()


class UserDefaults(_Settings, frozen=True, kw_only=True):
    """The share and the limits of a user; 0 and null are no limit."""

    weight: Weight = 1.0
    max_running: Amount = 0
    max_queued: Amount = 0
    rate: Rate | None = None
    max_share: Share = 1.0


class UserSettings(_Settings, frozen=True, kw_only=True):
    """What differs from `user_defaults` for one user."""

    weight: Weight | UnsetType = UNSET
    max_running: Amount | UnsetType = UNSET
    max_queued: Amount | UnsetType = UNSET
    rate: Rate | UnsetType | None = UNSET
    max_share: Share | UnsetType = UNSET

    def given(self) -> dict[str, Any]:
        """The settings that were given for this user, and no others."""
        return {name: value for name, value in asdict(self).items() if value is not UNSET}


class GroupSettings(_Settings, frozen=True, kw_only=True):
    """The share of a group of users."""

    weight: Weight = 1.0


class TaskDefaults(_Settings, frozen=True, kw_only=True):
    """Options of tasks that neither their function nor their caller set."""

    max_retries: Retries = 0


class LimitSettings(_Settings, frozen=True, kw_only=True):
    """What is refused at enqueue."""

    payload_bytes: PayloadBytes = 262_144
    max_queued_per_queue: Amount = 0


class RetentionSettings(_Settings, frozen=True, kw_only=True):
    """How long ended tasks are kept, and how many."""

    finished_seconds: Seconds = 86_400.0
    finished_max: Amount = 100_000
    failed_seconds: Seconds = 604_800.0
    failed_max: Amount = 100_000
    dedup_seconds: PositiveSeconds = 600.0


class SecuritySettings(_Settings, frozen=True, kw_only=True):
    """Whose tasks are run."""

    signing_keys_file: Path | None = None


class LoggingSettings(_Settings, frozen=True, kw_only=True):
    """What is logged, and how it looks; auto is text on a terminal and JSON elsewhere."""

    level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    format: Literal["auto", "text", "json"] = "auto"


class ControlSettings(_Settings, frozen=True, kw_only=True):
    """The socket that fairquectl speaks to."""

    socket: Path | None = None


class MetricsSettings(_Settings, frozen=True, kw_only=True):
    """Where Prometheus reads metrics."""

    listen: Address | None = "127.0.0.1:9750"

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port to listen on, or None for no metrics."""
        return None if self.listen is None else split_address(self.listen)


class ScheduleSettings(_Settings, frozen=True, kw_only=True):
    """A task that is enqueued again and again."""

    id: Id
    cron: Cron
    timezone: Timezone = "UTC"
    task: Id
    args: tuple[Any, ...] = ()
    user_id: Id


class Config(_Settings, frozen=True, kw_only=True):
    """The configuration of one daemon."""

    redis: RedisSettings
    namespace: Namespace = DEFAULT_NAMESPACE
    partitions: Partitions = 1
    state_dir: Path = field(default_factory=_state_dir_here)
    imports: tuple[ModuleName, ...] = ()
    python_path: tuple[FileName, ...] = (".",)
    middleware: tuple[ClassName, ...] = ()
    pools: tuple[PoolSettings, ...] = (PoolSettings(),)
    worker: WorkerSettings = WorkerSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    fairness: FairnessSettings = FairnessSettings()
    user_defaults: UserDefaults = UserDefaults()
    users: dict[Id, UserSettings] = field(default_factory=dict)
    groups: dict[Id, GroupSettings] = field(default_factory=dict)
    task_defaults: TaskDefaults = TaskDefaults()
    limits: LimitSettings = LimitSettings()
    retention: RetentionSettings = RetentionSettings()
    security: SecuritySettings = SecuritySettings()
    logging: LoggingSettings = LoggingSettings()
    control: ControlSettings = ControlSettings()
    metrics: MetricsSettings = MetricsSettings()
    schedules: tuple[ScheduleSettings, ...] = ()

    @property
    def control_socket(self) -> Path:
        """The path of the control socket."""
        return self.control.socket or self.state_dir / "control.sock"

    def limits_of(self, user_id: str) -> UserDefaults:
        """The share and the limits of one user, with the defaults for what was not given."""
        given = self.users[user_id].given() if user_id in self.users else {}
        return replace(self.user_defaults, **given)
