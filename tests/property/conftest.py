"""How long Hypothesis looks: `HYPOTHESIS_PROFILE=deep` for an hour or so, the default for each run of the tests."""

import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

from tests.support.servers import RedisServer, ServerBinary

_UNHURRIED = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

settings.register_profile(
    "quick", max_examples=40, stateful_step_count=50, deadline=None, suppress_health_check=_UNHURRIED
)
settings.register_profile(
    "deep", max_examples=2000, stateful_step_count=120, deadline=None, suppress_health_check=_UNHURRIED
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture
def own_server(server_binary: ServerBinary, start_server: Callable[..., RedisServer]) -> RedisServer:
    """A server that no other test uses: a property test fills many namespaces, and drops them."""
    return start_server(server_binary)
