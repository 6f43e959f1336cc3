import time
from typing import cast

import pytest

from fairqued.daemon import report
from fairqued.daemon.config import Config, PoolSettings, RedisSettings
from fairqued.daemon.crew import Child, Crew, Phase, Post
from fairqued.daemon.pulse import Pulse
from fairqued.worker.vitals import Vitals


class Wishless:
    """The pulse of a worker that wants nothing."""

    wish = ""


def config(*pools: PoolSettings) -> Config:
    return Config(redis=RedisSettings(url="embedded"), pools=pools)


MAIN, GPU = PoolSettings(name="main", processes=2), PoolSettings(name="gpu", queues=("gpu",), processes=1)


@pytest.fixture
def crew() -> Crew:
    return Crew(config(MAIN, GPU))


def born(post: Post, crew: Crew, pid: int = 1, *, seconds_ago: float = 0, phase: Phase = Phase.READY) -> Child:
    return Child(
        pid, f"w.{pid}", -1, title=post.title, pool=post.pool, config=config(), generation=crew.generation,
        vitals=cast("Vitals", None), pulse=cast("Pulse", Wishless()), born_at=time.monotonic() - seconds_ago,
        phase=phase,
    )  # fmt: skip


def man(crew: Crew) -> list[Child]:
    """Let every post have a ready worker."""
    for pid, post in enumerate(crew.posts, start=1):
        post.child = born(post, crew, pid)
    return crew.children()


def pauses(crew: Crew, times: int, *, booted: bool, seconds_ago: float = 0) -> list[float]:
    post = crew.posts[0]
    found = []
    for _ in range(times):
        post.child = born(post, crew, seconds_ago=seconds_ago, phase=Phase.READY if booted else Phase.BOOTING)
        found.append(crew.bury(post.child)[1])
    return found


def heirs_of(crew: Crew) -> list[str]:
    return [post.title for post in crew.heirless(time.monotonic())]


def test_each_process_of_each_pool_has_a_post(crew: Crew) -> None:
    assert [post.title for post in crew.posts] == ["main/1", "main/2", "gpu/1"]
    assert crew.vacant(time.monotonic()) == crew.posts
    assert crew.next_fill() == 0


def test_filled_posts_are_not_vacant(crew: Crew) -> None:
    children = man(crew)
    assert crew.vacant(time.monotonic()) == []
    assert crew.next_fill() == float("inf")
    assert [crew.post_of(child) for child in children] == crew.posts


def test_a_post_whose_heir_boots_is_nothing_to_wait_for(crew: Crew) -> None:
    """Or the loop would spin, if the old worker died meanwhile."""
    man(crew)
    crew.reshape(config(MAIN, GPU))
    first = crew.posts[0]
    first.heir = born(first, crew, 11, phase=Phase.BOOTING)
    assert first.child is not None
    crew.bury(first.child)
    assert crew.next_fill() == float("inf")
    crew.bury(first.heir)
    assert crew.next_fill() > time.monotonic()


def test_the_first_death_costs_no_time(crew: Crew) -> None:
    assert pauses(crew, 1, booted=True) == [0]
    assert crew.posts[0] in crew.vacant(time.monotonic())


def test_pauses_grow_with_jitter_up_to_a_limit(crew: Crew) -> None:
    found = pauses(crew, 12, booted=True)
    assert found[0] == 0
    for pause, longest in zip(found[1:], [1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30], strict=True):
        assert longest / 2 <= pause <= longest
    assert crew.posts[0].fill_at > time.monotonic()
    assert crew.posts[0] not in crew.vacant(time.monotonic())


def test_a_failed_boot_costs_time_at_once(crew: Crew) -> None:
    first, second = pauses(crew, 2, booted=False)
    assert 0.25 <= first <= 0.5 <= second <= 1


def test_a_worker_that_lived_for_a_while_makes_up_for_earlier_deaths(crew: Crew) -> None:
    pauses(crew, 5, booted=True)
    assert pauses(crew, 1, booted=True, seconds_ago=11) == [0]
    assert pauses(crew, 1, booted=False, seconds_ago=60)[0] > 0, "a boot that hung for long proves nothing"


def test_posts_pause_on_their_own(crew: Crew) -> None:
    pauses(crew, 5, booted=False)
    assert crew.vacant(time.monotonic()) == crew.posts[1:]
    assert crew.next_fill() == 0


def test_deaths_without_end_do_not_overflow(crew: Crew) -> None:
    crew.posts[0].deaths = 100_000
    assert pauses(crew, 1, booted=True)[0] <= 30


def test_workers_are_replaced_one_by_one_in_each_pool(crew: Crew) -> None:
    old = man(crew)
    assert heirs_of(crew) == []
    crew.reshape(config(MAIN, GPU))
    assert crew.outdated() == 3
    assert heirs_of(crew) == ["main/1", "gpu/1"]
    first = crew.posts[0]
    first.heir = heir = born(first, crew, 11, phase=Phase.BOOTING)
    assert heirs_of(crew) == ["gpu/1"], "main/1 has one, and main/2 waits for it"
    assert old[0] in crew.children()
    assert heir in crew.children()
    assert crew.welcome(heir) is old[0]
    assert heirs_of(crew) == ["main/2", "gpu/1"]
    assert crew.outdated() == 2
    assert old[0] in crew.children(), "it lives until it is buried"
    assert crew.bury(old[0]) == (None, 0.0)
    assert first.deaths == 0
    assert old[0] not in crew.children()


def test_an_heir_that_cannot_boot_leaves_the_old_worker_where_it_is(crew: Crew) -> None:
    old = man(crew)
    crew.reshape(config(MAIN, GPU))
    crew.posts[0].heir = heir = born(crew.posts[0], crew, 11, phase=Phase.BOOTING)
    _, pause = crew.bury(heir)
    assert pause > 0
    assert crew.posts[0].child is old[0]
    assert "main/1" not in heirs_of(crew), "not before the pause is over"


def test_nobody_is_replaced_while_a_post_of_the_pool_is_empty(crew: Crew) -> None:
    man(crew)
    crew.reshape(config(MAIN, GPU))
    crew.posts[1].child = None
    assert heirs_of(crew) == ["gpu/1"]


def test_an_heir_outlives_its_predecessor(crew: Crew) -> None:
    old = man(crew)
    crew.reshape(config(MAIN, GPU))
    crew.posts[0].heir = heir = born(crew.posts[0], crew, 11, phase=Phase.BOOTING)
    crew.bury(old[0])
    assert crew.posts[0] not in crew.vacant(time.monotonic()), "the heir is there"
    assert crew.welcome(heir) is None
    assert crew.posts[0].child is heir


def test_an_heir_that_dies_at_once_is_held_to_its_own_age(crew: Crew) -> None:
    for post in crew.posts:
        post.child = born(post, crew, seconds_ago=600)
    crew.reshape(config(MAIN, GPU))
    first, pauses = crew.posts[0], []
    for _ in range(3):
        first.heir = born(first, crew, 11)
        pauses.append(crew.bury(first.heir)[1])
    assert pauses[0] == 0 < pauses[1] < pauses[2]
    assert first.child is not None


def test_a_round_is_over_once_each_post_was_served(crew: Crew) -> None:
    """Not when all workers live at the same moment: some may die again and again."""
    for post in crew.posts:
        assert crew.outdated() > 0
        for _ in range(3):
            post.child = born(post, crew, phase=Phase.BOOTING)
            crew.welcome(post.child)
            crew.bury(post.child)
    assert crew.outdated() == 0
    assert report.trouble(crew) == "worker main/1 has died 3 times in a row"


def test_what_keeps_workers_from_being_replaced(crew: Crew) -> None:
    man(crew)
    assert report.trouble(crew) == ""
    crew.posts[1].trouble = "SyntaxError"
    assert report.trouble(crew) == "worker main/2 cannot boot: SyntaxError"
    crew.reshape(config(MAIN, GPU))
    assert report.trouble(crew) == "", "who knows"
    crew.hide("gpu")
    crew.posts[-1].trouble = "SyntaxError"
    assert report.trouble(crew) == "", "it is none of those to replace"


def test_a_worker_that_wishes_for_it_is_replaced(crew: Crew) -> None:
    man(crew)[1].pulse.wish = "it has run max_tasks"
    assert heirs_of(crew) == ["main/2"]


def test_workers_that_wish_for_it_at_once_are_replaced_after_growing_pauses(crew: Crew) -> None:
    """As when they take more than max_rss_mb before their first task."""
    first, pauses = crew.posts[0], []
    first.child = born(first, crew)
    for _ in range(4):
        first.child.pulse.wish = "it takes 50 MB"
        first.heir = born(first, crew, phase=Phase.BOOTING)
        crew.welcome(first.heir)
        pauses.append(first.fill_at - time.monotonic())
    assert pauses[0] <= 0 < pauses[1] < pauses[2] < pauses[3]
    first.child.pulse.wish, first.child.born_at = "it has run max_tasks", time.monotonic() - 60
    first.heir = born(first, crew, phase=Phase.BOOTING)
    crew.welcome(first.heir)
    assert first.fill_at <= time.monotonic(), "it lived for a while"


def test_a_reload_sends_away_whoever_boots_with_what_is_out_of_date(crew: Crew) -> None:
    ready, booting, gpu = man(crew)
    booting.phase = Phase.BOOTING
    crew.posts[0].heir = heir = born(crew.posts[0], crew, 11, phase=Phase.BOOTING)
    assert crew.reshape(config(MAIN, GPU)) == [heir, booting]
    assert crew.vacant(time.monotonic()) == [crew.posts[1]]
    assert crew.children() == [ready, gpu, heir, booting]


def test_fewer_processes_dissolve_the_last_posts(crew: Crew) -> None:
    children = man(crew)
    assert crew.scale("main", 1) == [children[1]]
    assert [post.title for post in crew.posts] == ["main/1", "gpu/1"]
    assert crew.leaving == [children[1]]
    assert crew.scale("main", 3) == []
    assert [post.title for post in crew.posts] == ["main/1", "gpu/1", "main/2", "main/3"]
    assert crew.size_of("main") == 3
    assert crew.size_of("nowhere") is None


def test_a_reload_takes_pools_away_and_brings_others(crew: Crew) -> None:
    man(crew)
    mail = PoolSettings(name="mail", processes=1)
    crew.reshape(config(PoolSettings(name="main", processes=2, threads=3), mail))
    assert [(post.title, post.pool.threads) for post in crew.posts] == [("main/1", 3), ("main/2", 3), ("mail/1", 8)]
    assert crew.first_pool == "main"
    assert crew.pool_names == ["main", "mail"]


def test_a_worker_whose_pool_is_gone_stays_until_all_others_are_replaced(crew: Crew) -> None:
    """The pool may but have another name now."""
    gpu = man(crew)[2]
    assert crew.reshape(config(MAIN, PoolSettings(name="cuda", queues=("gpu",), processes=1))) == []
    for post in crew.posts:
        assert gpu in crew.children()
        assert crew.dispensable() == []
        newcomer = born(post, crew, 11, phase=Phase.BOOTING)
        post.child, post.heir = (post.child, newcomer) if post.child else (newcomer, None)
        if old := crew.welcome(newcomer):
            old.phase = Phase.STOPPING
    assert crew.dispensable() == [gpu]
    gpu.phase = Phase.STOPPING
    assert crew.dispensable() == []


def test_a_worker_whose_pool_is_gone_goes_at_once_if_it_is_no_use(crew: Crew) -> None:
    children = man(crew)
    children[1].phase = Phase.BOOTING
    mail = PoolSettings(name="mail", processes=1)
    assert crew.reshape(config(mail)) == [children[1]]
    children[1].phase = Phase.STOPPING
    children[2].pulse.wish = "a task does not end"
    assert crew.dispensable() == [children[2]]


def test_a_hidden_queue_has_one_post_until_it_is_empty(crew: Crew) -> None:
    man(crew)
    for _ in range(2):
        crew.hide("gpu")
    crew.hide("of another daemon")
    hidden = crew.posts[-1]
    assert len(crew.posts) == 4
    assert (hidden.title, hidden.pool.threads, hidden.pool.queue_names) == ("gpu/gpu!", 1, ("gpu!",))
    assert crew.vacant(time.monotonic()) == [hidden]
    hidden.child = born(hidden, crew, 9)
    crew.scale("gpu", 1)
    assert hidden in crew.posts, "it does not count"
    crew.bury(hidden.child)
    assert hidden not in crew.posts


def test_a_hidden_worker_that_cannot_boot_is_tried_again_after_a_pause(crew: Crew) -> None:
    crew.hide("gpu")
    hidden = crew.posts[-1]
    hidden.child = born(hidden, crew, 9, phase=Phase.BOOTING)
    _, pause = crew.bury(hidden.child)
    assert pause > 0
    assert hidden in crew.posts


@pytest.mark.parametrize("phase", [Phase.READY, Phase.BOOTING, None])
def test_a_reload_does_away_with_posts_of_hidden_queues(crew: Crew, phase: Phase | None) -> None:
    """The next tick brings others, in the form of the new configuration, if that has the queue."""
    man(crew)
    crew.hide("gpu")
    hidden = crew.posts[-1]
    if phase:
        hidden.child = born(hidden, crew, 9, phase=phase)
    assert [child.pid for child in crew.reshape(config(MAIN, GPU))] == ([9] if phase else [])
    assert hidden not in crew.posts
    crew.hide("gpu")
    assert crew.posts[-1].title == "gpu/gpu!"
    crew.reshape(config(MAIN))
    crew.hide("gpu")
    assert [post.title for post in crew.posts] == ["main/1", "main/2"]


def test_a_hidden_worker_that_wishes_for_it_leaves_without_an_heir(crew: Crew) -> None:
    man(crew)
    crew.hide("gpu")
    hidden = crew.posts[-1]
    hidden.child = born(hidden, crew, 9)
    assert crew.dispensable() == []
    hidden.child.pulse.wish = "a task does not end"
    assert "gpu/gpu!" not in heirs_of(crew)
    assert [child.pid for child in crew.dispensable()] == [9]
    assert hidden not in crew.posts
