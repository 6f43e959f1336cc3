"""A namespace of one's own on each server, with a simulated clock, whose soundness is checked at the end."""

from collections.abc import Callable, Iterator

import pytest

from tests.support.servers import RedisServer, ServerBinary
from tests.support.world import World


@pytest.fixture
def world(redis_url: str, namespace: str) -> Iterator[World]:
    """A world that has to be sound when the test is over."""
    world = World(redis_url, namespace)
    yield world
    findings = world.fsck()
    world.close()
    assert findings == []


@pytest.fixture
def damaged_world(redis_url: str, namespace: str) -> Iterator[World]:
    """A world in which the test itself does damage."""
    world = World(redis_url, namespace)
    yield world
    world.close()


@pytest.fixture
def own_server_world(
    start_server: Callable[..., RedisServer], server_binary: ServerBinary, namespace: str
) -> Iterator[World]:
    """A world that is alone on its server."""
    world = World(start_server(server_binary).url, namespace)
    yield world
    world.close()
