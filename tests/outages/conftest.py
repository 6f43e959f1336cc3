"""Courses: what daemons live through with a Redis of their own, played all at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Protocol, TypeVar

import pytest

from tests.support.courses import Course

C = TypeVar("C", bound=Course)


class Played(Protocol):
    """`played(Kill)`: that course, once it was played to its end."""

    def __call__(self, kind: type[C], /) -> C: ...


@pytest.fixture(scope="session")
def played(request: pytest.FixtureRequest) -> Iterator[Played]:
    """Courses that were played to their end. The first test that asks for one starts those of all tests.

    A test names the courses it may ask for by `pytest.mark.course.with_args(Kill, …)`.
    """
    marks = [mark for item in request.session.items for mark in item.iter_markers("course")]
    wanted: dict[type[Course], None] = dict.fromkeys(kind for mark in marks for kind in mark.args)
    with ExitStack() as stack:
        courses = {kind: kind() for kind in wanted}
        for course in courses.values():
            stack.callback(course.patient.close)
        threads = stack.enter_context(ThreadPoolExecutor(len(courses)))
        plays = {kind: threads.submit(course.play) for kind, course in courses.items()}

        def wait_for(kind: type[C], /) -> C:
            plays[kind].result()
            course = courses[kind]
            assert isinstance(course, kind)
            return course

        yield wait_for
