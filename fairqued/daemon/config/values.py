"""What a single setting may be: types with their bounds, and the words that an error message says it in."""

import math
import re
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import parse_qs, urlsplit

from msgspec import Meta

from fairqued.errors import ConfigError, InvalidTask
from fairqued.keys import check_namespace
from fairqued.validation import check_id, check_queue_name

_MAX_PORT = 65_535
_YEARS = 365 * 86_400
_IN_STATE_DIR = "fairqued:///"
_RATE = re.compile(r"([1-9][0-9]{0,8})/([smhd])")
_RATE_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DOTTED = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_MODULE = re.compile(_DOTTED)
_CLASS = re.compile(rf"{_DOTTED}:{_DOTTED}")
_CRON_FIELDS = (5, 6)
_CRON_RANDOM = re.compile(r"\b[RH]\b", re.IGNORECASE)


@dataclass(frozen=True)
class Check:
    """A test that a value has to pass beyond its type, and what an error message calls such a value."""

    expected: str
    passes: Callable[[Any], bool]


def tokens_per_second(rate: str) -> float:
    """Return how many tasks a second a rate such as `100/s`, `10/m`, `5000/h` or `20000/d` allows."""
    if (match := _RATE.fullmatch(rate)) is None:
        raise ConfigError(f"rate {rate!r}: expected a whole number and a unit, such as 100/s, 10/m, 5000/h or 20000/d")
    return int(match[1]) / _RATE_SECONDS[match[2]]


def split_address(listen: str) -> tuple[str, int]:
    """Return host and port of `127.0.0.1:9750` or `[::1]:9750`."""
    host, colon, port = listen.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not (host and colon and host.isprintable() and " " not in host and re.fullmatch("[0-9]{1,5}", port)):
        raise ConfigError(f"address {listen!r}: expected host:port")
    if int(port) > _MAX_PORT:
        raise ConfigError(f"address {listen!r}: a port is at most {_MAX_PORT}")
    return host, int(port)


def _accepted_by(check: Callable[[str], object]) -> Callable[[str], bool]:
    """Turn a check that raises into one that answers, so that each rule is written once."""

    def passes(value: str) -> bool:
        try:
            check(value)
        except (ConfigError, InvalidTask):
            return False
        return True

    return passes


def _is_redis_url(url: str) -> bool:
    if url == "embedded" or (url.startswith(_IN_STATE_DIR) and is_file_name(url.removeprefix(_IN_STATE_DIR))):
        return True
    try:
        parts = urlsplit(url)
        port_is_sane = parts.port != 0  # reading a port that is no number raises
    except ValueError:
        return False
    if not url.isprintable() or " " in url or not url.startswith(f"{parts.scheme}://"):
        return False
    if parts.scheme == "unix":
        return parts.path.startswith("/") and parts.path != "/"
    database = parts.path.strip("/") or parse_qs(parts.query).get("db", ["0"])[0]
    return parts.scheme in ("redis", "rediss") and bool(parts.hostname) and port_is_sane and database.isdecimal()


def _is_timezone(name: str) -> bool:
    try:
        zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not found, not a relative path, a folder
        return False
    return True


def _is_cron(line: str) -> bool:
    from croniter import CroniterError, croniter  # noqa: PLC0415 - 60 ms, for those who have schedules

    if len(line.split()) not in _CRON_FIELDS or _CRON_RANDOM.search(line) or not croniter.is_valid(line):
        return False
    try:
        croniter(line, 0.0).get_next(float)
    except CroniterError:  # 30 February never comes
        return False
    return True


def is_file_name(text: object) -> bool:
    """Whether the operating system could have a file of that name."""
    return isinstance(text, str) and bool(text) and "\0" not in text


Count = Annotated[int, Meta(ge=1, le=100_000)]
Amount = Annotated[int, Meta(ge=0, le=10**12)]
"""Zero stands for none: no limit, or nothing kept, as each setting says."""
Partitions = Annotated[int, Meta(ge=1, le=64)]
Retries = Annotated[int, Meta(ge=0, le=65_535)]
PayloadBytes = Annotated[int, Meta(ge=1, le=64 * 1024 * 1024)]
Seconds = Annotated[float, Meta(ge=0, le=10 * _YEARS)]
PositiveSeconds = Annotated[float, Meta(gt=0, le=10 * _YEARS)]
LeaseSeconds = Annotated[float, Meta(ge=4, le=86_400)]
HeartbeatSeconds = Annotated[float, Meta(ge=0.1, le=86_400)]
HeadStart = Annotated[float, Meta(ge=-_YEARS, le=_YEARS)]
Weight = Annotated[float, Meta(ge=0.001, le=1_000_000)]
Share = Annotated[float, Meta(gt=0, le=1)]

RedisUrl = Annotated[
    str, Check("a redis://, rediss:// or unix:// URL, embedded, or fairqued:// and a state directory", _is_redis_url)
]
Namespace = Annotated[
    str,
    Check("1 to 100 characters without blanks, braces, colons and control characters", _accepted_by(check_namespace)),
]
Name = Annotated[str, Check("a name of 1 to 100 of the characters A-Z a-z 0-9 _ . -", _accepted_by(check_queue_name))]
Id = Annotated[
    str,
    Check("text of 1 to 200 characters without control characters", _accepted_by(lambda value: check_id(value, "id"))),
]
FileName = Annotated[str, Check("a path", is_file_name)]
ModuleName = Annotated[
    str, Check("the dotted name of a module, such as myapp.tasks", lambda name: bool(_MODULE.fullmatch(name)))
]
ClassName = Annotated[
    str, Check("module:Class, such as myapp.handlers:MyHandler", lambda name: bool(_CLASS.fullmatch(name)))
]
Rate = Annotated[str, Check("a rate such as 100/s, 10/m or 5000/h", _accepted_by(tokens_per_second))]
Address = Annotated[str, Check("host:port, such as 127.0.0.1:9750", _accepted_by(split_address))]
Separator = Annotated[str, Check("one character", lambda text: len(text) == 1 and text.isprintable())]
Cron = Annotated[str, Check("a cron line of 5 fields (a sixth, last, is seconds) that comes due", _is_cron)]
Timezone = Annotated[str, Check("a timezone such as Europe/Paris", _is_timezone)]


def is_finite(value: object) -> bool:
    """Whether a value is anything but an infinite or undefined number."""
    return not isinstance(value, float) or math.isfinite(value)
