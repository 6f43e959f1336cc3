"""A namespace of one's own on each server, with a simulated clock, whose soundness is checked at the end."""

from collections.abc import Iterator

import pytest

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
