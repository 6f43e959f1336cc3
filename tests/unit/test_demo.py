"""What the demo concludes from what it saw: its checks against wrong data, and FIFO on small known cases."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from fairqued.demo import tasks as demo_tasks
from fairqued.demo.checks import Check, Kill, check_counted_once, check_end, check_kill, check_totals
from fairqued.demo.corpus import count_directly, spread, stdlib_files
from fairqued.demo.ran import Ran, shares_while_all_wait, waits_if_first_come_first_served
from fairqued.demo.report import print_checks, print_shares, print_waits
from fairqued.demo.tasks import Counted, count
from fairqued.demo.view import PlainView, Standing, seconds

_KILLED_AT = 10.0


def counted(path: str, tokens: int = 5) -> Counted:
    return Counted(path=path, size=9, sha256="00", zlib_size=7, lines=2, tokens=tokens, is_source=True)


def ran(user: str, path: str, times: tuple[float, float, float] = (0.0, 1.0, 2.0), attempts: int = 1) -> Ran:
    """A task that was enqueued, started and ended at these times."""
    return Ran(user, path, counted(path), attempts, *times)


EXPECTED = {"whale": ["a.py", "b.py", "c.py"], "alice": ["b.py"]}
WELL = [
    ran("whale", "a.py"),
    ran("whale", "b.py", (0.0, 11.0, 12.0), attempts=2),
    ran("whale", "c.py", (0.0, 11.0, 12.0)),
    ran("alice", "b.py", (5.0, 6.0, 7.0)),
]
COUNTERS = {"finished": 4, "started": 5, "reclaimed": 1}
DIRECT = {path: counted(path) for path in EXPECTED["whale"]}
KILL = Kill(_KILLED_AT, threads=2, put_back=1)


def with_task(index: int, **changes: object) -> list[Ran]:
    """What went well, but for one task."""
    return [replace(task, **changes) if each == index else task for each, task in enumerate(WELL)]  # type: ignore[arg-type]


def test_all_checks_hold_for_a_run_without_mistakes() -> None:
    checks = [
        check_counted_once(EXPECTED, WELL, COUNTERS),
        check_totals(WELL, DIRECT),
        check_kill(WELL, KILL, COUNTERS),
    ]
    assert [check for check in checks if not check.holds] == []
    assert check_end(0).holds


class TestCountedOnce:
    def test_a_lost_file_is_named(self) -> None:
        check = check_counted_once(EXPECTED, WELL[:3], COUNTERS)
        assert not check.holds
        assert check.grounds == "1 not counted: b.py (alice)"

    def test_a_failed_task_is_named_with_its_problem(self) -> None:
        check = check_counted_once(EXPECTED, with_task(0, counted=None, problem="OSError: no"), COUNTERS)
        assert not check.holds
        assert check.grounds == "1 not counted: a.py (whale); OSError: no"

    def test_a_file_that_came_back_twice_is_named(self) -> None:
        check = check_counted_once(EXPECTED, [*WELL, ran("alice", "b.py")], COUNTERS)
        assert not check.holds
        assert check.grounds == "1 counted too often: b.py (alice)"

    def test_a_result_of_another_file_is_found(self) -> None:
        assert not check_counted_once(EXPECTED, with_task(0, counted=counted("c.py")), COUNTERS).holds

    @pytest.mark.parametrize("wrong", [{"finished": 5}, {"finished": 3}, {"failed": 1}, {"cancelled": 1}])
    def test_the_completions_have_to_be_as_many_as_the_tasks(self, wrong: dict[str, int]) -> None:
        assert not check_counted_once(EXPECTED, WELL, COUNTERS | wrong).holds


class TestTotals:
    def test_a_wrong_count_is_named(self) -> None:
        check = check_totals(with_task(0, counted=counted("a.py", tokens=6)), DIRECT)
        assert not check.holds
        assert check.grounds == "1 differ: a.py"

    def test_a_wrong_count_of_a_file_that_another_user_counted_right_is_found(self) -> None:
        assert not check_totals(with_task(1, counted=counted("b.py", tokens=6)), DIRECT).holds

    def test_a_file_that_only_one_side_counted_is_found(self) -> None:
        assert not check_totals(WELL[1:], DIRECT).holds
        assert not check_totals(WELL, {path: DIRECT[path] for path in ("a.py", "b.py")}).holds

    def test_the_totals_are_told(self) -> None:
        assert check_totals(WELL, DIRECT).grounds.startswith("3 files, 6 lines, 15 tokens, 27 bytes, 21 after zlib")


class TestKill:
    @pytest.mark.parametrize(
        "tasks",
        [
            pytest.param(with_task(1, counted=None), id="a task is lost"),
            pytest.param(with_task(1, attempts=1), id="a task that was put back did not run again"),
            pytest.param(with_task(0, attempts=2), id="a task ran twice that had ended before the kill"),
            pytest.param(
                [replace(WELL[0], attempts=2), replace(WELL[1], attempts=1), *WELL[2:]],
                id="another task ran twice than one that was put back",
            ),
            pytest.param(with_task(2, attempts=2), id="more tasks ran twice than were put back"),
            pytest.param(with_task(1, attempts=3), id="a task ran three times"),
        ],
    )
    def test_what_the_kill_does_not_explain_is_found(self, tasks: list[Ran]) -> None:
        assert not check_kill(tasks, KILL, COUNTERS).holds

    @pytest.mark.parametrize("wrong", [{"started": 6}, {"started": 4}, {"reclaimed": 0}, {"reclaimed": 2}])
    def test_the_counters_have_to_agree(self, wrong: dict[str, int]) -> None:
        assert not check_kill(WELL, KILL, COUNTERS | wrong).holds

    def test_a_worker_holds_no_more_than_its_threads(self) -> None:
        assert not check_kill(WELL, replace(KILL, threads=0), COUNTERS).holds


def test_a_daemon_that_crashed_did_not_stop_in_good_order() -> None:
    assert not check_end(1).holds
    assert not check_end(-9).holds


class TestFirstComeFirstServed:
    def test_one_slot_serves_in_the_order_of_enqueuing(self) -> None:
        tasks = [ran("whale", "a", (0, 0, 3)), ran("whale", "b", (0, 9, 11)), ran("alice", "c", (1, 1, 2))]
        assert waits_if_first_come_first_served(tasks, 1) == [0, 3, 4]

    def test_each_task_takes_the_slot_that_is_free_first(self) -> None:
        tasks = [ran("whale", name, (0, 0, length)) for name, length in (("a", 5), ("b", 1), ("c", 1), ("d", 4))]
        assert waits_if_first_come_first_served([*tasks, ran("alice", "e", (3, 3, 4))], 2) == [0, 0, 1, 2, 2]

    def test_an_idle_slot_serves_at_once(self) -> None:
        assert waits_if_first_come_first_served([ran("a", "a", (0, 0, 1)), ran("b", "b", (5, 9, 10))], 1) == [0, 0]

    def test_what_came_earlier_goes_first_whatever_the_order_given(self) -> None:
        assert waits_if_first_come_first_served([ran("b", "b", (1, 5, 6)), ran("a", "a", (0, 0, 4))], 1) == [3, 0]


def test_shares_are_of_the_time_in_which_all_had_tasks_waiting() -> None:
    tasks = [
        ran("whale", "a", (0, 0, 3)),  # one second of it after alice came
        ran("alice", "b", (2, 3, 5)),
        ran("whale", "c", (0, 3, 5)),
        ran("alice", "d", (2, 5, 9)),  # alice's last start: from here on she waits no more
        ran("whale", "e", (0, 9, 10)),
    ]
    shares = shares_while_all_wait(tasks, ["whale", "alice"])
    assert shares.seconds == 3
    assert shares.parts == {"whale": 0.6, "alice": 0.4}


class TestCounting:
    def test_a_file_of_the_standard_library(self) -> None:
        data = (demo_tasks.FOLDER / "asyncio/tasks.py").read_bytes()
        found = count("asyncio/tasks.py")
        assert (found.size, found.lines, found.is_source) == (len(data), data.count(b"\n"), True)
        assert 0 < found.zlib_size < found.size < found.tokens * 100

    @pytest.mark.parametrize("data", [b"x = (", b"  x\n y", b"# coding: no-such\n", b"\xff\xfe\x00", b"'''"])
    def test_what_cannot_be_tokenized_is_counted_as_such(
        self, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(demo_tasks, "FOLDER", tmp_path)
        (tmp_path / "bad.py").write_bytes(data)
        found = count("bad.py")
        assert (found.size, found.lines, found.tokens, found.is_source) == (len(data), 0, 0, False)

    def test_direct_counting_counts_each_file(self) -> None:
        paths = spread(stdlib_files(), 12)
        assert count_directly(paths) == {path: count(path) for path in paths}

    def test_the_library_is_the_library_alone(self) -> None:
        files = stdlib_files()
        assert "asyncio/tasks.py" in files
        assert not [path for path in files if "site-packages" in path or not path.endswith(".py")]

    def test_a_sample_is_spread_and_without_doubles(self) -> None:
        paths = [str(number) for number in range(100)]
        assert spread(paths, 4) == ["0", "25", "50", "75"]
        assert spread(paths, 4, offset=0.5) == ["12", "37", "62", "87"]
        assert spread(paths, 200) == paths
        assert len(set(spread(paths, 99, offset=0.9))) == 99


class TestReport:
    def test_a_failed_check_is_said_and_answered(self) -> None:
        console = plain_console()
        assert not print_checks(
            console, [Check("One", holds=True, grounds="a"), Check("Two", holds=False, grounds="b")]
        )
        assert text_of(console) == "OK      One: a\nFAILED  Two: b\n"

    def test_a_row_for_each_user(self) -> None:
        console = plain_console()
        print_waits(
            console, [ran("whale", "a", (0, 0, 3)), ran("whale", "b", (0, 4, 6)), ran("alice", "c", (1, 3, 4))], 1
        )
        rows = [line.split() for line in text_of(console).splitlines()]
        assert ["whale", "2", "2.00", "s", "4.00", "s", "1.50", "s", "3.00", "s", "5.00"] in rows
        assert ["alice", "1", "2.00", "s", "2.00", "s", "4.00", "s", "4.00", "s", "1.00"] in rows

    def test_shares_are_told_in_percent(self) -> None:
        console = plain_console()
        tasks = [ran("whale", "a", (0, 0, 3)), ran("whale", "c", (0, 4, 5)), ran("alice", "b", (0, 2, 3))]
        print_shares(console, tasks, ["whale", "alice"])
        told = "While 2 users had tasks waiting (2.00 s), slot time went to: whale 100%, alice 0%.\n"
        assert text_of(console) == told

    def test_durations_are_for_people(self) -> None:
        assert [seconds(value) for value in (0.0004, 0.25, 1.0, 61.5)] == ["0 ms", "250 ms", "1.00 s", "61.50 s"]

    def test_plain_lines_come_now_and_then(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [100.0]
        monkeypatch.setattr("fairqued.demo.view.time.monotonic", lambda: now[0])
        console = plain_console()
        view = PlainView(console)
        for now[0] in (100.1, 101.2, 101.9, 102.3):
            view.show([Standing("whale", 2000, 1500), Standing("bob", 3, 0)])
        view.tell("[bold]done[/bold]")
        lines = text_of(console).splitlines()
        assert lines[0] == "  1.2 s  started: whale 500/2,000, bob 3/3"
        assert [re.match(r" +([\d.]+)", line)[1] for line in lines] == ["1.2", "2.3", "2.3"]  # type: ignore[index]
        assert lines[-1].endswith("[bold]done[/bold]")


def plain_console() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=100, highlight=False)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
