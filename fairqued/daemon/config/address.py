"""Where the Redis of a configuration is."""

from urllib.parse import quote, urlsplit, urlunsplit

from fairqued.daemon.config.settings import Config
from fairqued.errors import ConfigError


def redis_url(config: Config) -> str:
    """Return the URL for clients: with the password out of `password_file`; the socket in `state_dir` if embedded.

    Raises ConfigError if the file cannot be read.
    """
    if config.redis.url == "embedded":
        return f"fairqued://{config.state_dir.absolute()}"
    if config.redis.password_file is None or config.redis.url.startswith("fairqued:"):
        return config.redis.url
    try:
        password = quote(config.redis.password_file.read_text().strip(), safe="")
    except OSError as error:
        raise ConfigError(f"redis.password_file {config.redis.password_file}: {error.strerror}") from None
    parts = urlsplit(config.redis.url)
    if parts.scheme == "unix":
        query = f"{parts.query}&password={password}" if parts.query else f"password={password}"
        return urlunsplit(parts._replace(query=query))
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:{password}@{place}"))
