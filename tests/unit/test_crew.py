import time

import pytest

from fairqued.daemon.config import Config, PoolSettings, RedisSettings
from fairqued.daemon.crew import Child, Crew, Post


@pytest.fixture
def crew() -> Crew:
    pools = (PoolSettings(name="main", processes=2), PoolSettings(name="gpu", processes=1))
    return Crew(Config(redis=RedisSettings(url="embedded"), pools=pools))


def hire(post: Post, pid: int = 1, *, seconds_ago: float = 0) -> Child:
    post.child = Child(pid, f"w.{pid}", -1, born_at=time.monotonic() - seconds_ago)
    return post.child


def pauses(post: Post, times: int, *, booted: bool, seconds_ago: float = 0) -> list[float]:
    found = []
    for _ in range(times):
        hire(post, seconds_ago=seconds_ago)
        found.append(post.vacate(booted=booted))
    return found


def test_each_process_of_each_pool_has_a_post(crew: Crew) -> None:
    assert [post.title for post in crew.posts] == ["main/1", "main/2", "gpu/1"]
    assert crew.vacant(time.monotonic()) == crew.posts
    assert crew.next_fill() == 0


def test_filled_posts_are_not_vacant(crew: Crew) -> None:
    children = [hire(post, pid) for pid, post in enumerate(crew.posts)]
    assert crew.vacant(time.monotonic()) == []
    assert crew.next_fill() == float("inf")
    assert crew.children() == children
    assert [crew.post_of(child) for child in children] == crew.posts


def test_the_first_death_costs_no_time(crew: Crew) -> None:
    post = crew.posts[0]
    assert pauses(post, 1, booted=True) == [0]
    assert post.child is None
    assert post in crew.vacant(time.monotonic())


def test_pauses_grow_with_jitter_up_to_a_limit(crew: Crew) -> None:
    found = pauses(crew.posts[0], 12, booted=True)
    assert found[0] == 0
    for pause, longest in zip(found[1:], [1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30], strict=True):
        assert longest / 2 <= pause <= longest
    assert crew.posts[0].fill_at > time.monotonic()
    assert crew.posts[0] not in crew.vacant(time.monotonic())


def test_a_failed_boot_costs_time_at_once(crew: Crew) -> None:
    first, second = pauses(crew.posts[0], 2, booted=False)
    assert 0.25 <= first <= 0.5 <= second <= 1


def test_a_fork_that_failed_counts_as_a_failed_boot(crew: Crew) -> None:
    assert crew.posts[0].vacate(booted=False) >= 0.25


def test_a_worker_that_lived_for_a_while_makes_up_for_earlier_deaths(crew: Crew) -> None:
    post = crew.posts[0]
    pauses(post, 5, booted=True)
    assert pauses(post, 1, booted=True, seconds_ago=11) == [0]
    assert pauses(post, 1, booted=False, seconds_ago=60)[0] > 0, "a boot that hung for long proves nothing"


def test_posts_pause_on_their_own(crew: Crew) -> None:
    pauses(crew.posts[0], 5, booted=False)
    assert crew.vacant(time.monotonic()) == crew.posts[1:]
    assert crew.next_fill() == 0


def test_deaths_without_end_do_not_overflow(crew: Crew) -> None:
    crew.posts[0].deaths = 100_000
    assert pauses(crew.posts[0], 1, booted=True)[0] <= 30
