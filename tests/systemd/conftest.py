"""One container with a real systemd for all tests of this folder, and the service in it."""

from collections.abc import Iterator

import pytest

from fairqued import TaskQueue
from tests.systemd.container import CannotBoot, Container
from tests.systemd.service import Service


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    """A booted container; without it a test is skipped."""
    try:
        booted = Container().boot()
    except CannotBoot as reason:
        pytest.skip(f"no real systemd here: {reason}")
    yield booted
    booted.end()


@pytest.fixture(scope="module")
def installed(container: Container) -> Service:
    service = Service(container)
    service.install()
    return service


@pytest.fixture
def service(installed: Service) -> Iterator[Service]:
    """The service, configured and not started; its namespace is checked at the end if Redis still runs."""
    installed.configure()
    yield installed
    is_up = installed.show("ActiveState") == "active"
    findings = installed.findings() if is_up else []
    installed.clean()
    assert findings == []


@pytest.fixture
def queue(service: Service) -> Iterator[TaskQueue]:
    """A client outside of the container, whose tasks are alice's."""
    queue = TaskQueue(service.url, namespace=service.namespace, user_id="alice")
    yield queue
    queue.close()
