"""The same daemons as those of tests/daemon."""

from tests.daemon.conftest import make_daemon, queue, redis_server, short_path, start_daemon, url_of

__all__ = ["make_daemon", "queue", "redis_server", "short_path", "start_daemon", "url_of"]
