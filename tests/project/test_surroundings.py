"""tests/support/surroundings.py: each surrounding does what its name says, and none hides a failure."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import surroundings
from tests.support.processes import python_in
from tests.support.surroundings import SURROUNDINGS, CannotMake, Run, Surrounding, drawn, main

FILE = Path(surroundings.__file__)
DAY_S = 86_400
TOLERANCE_S = 600.0


def test_every_surrounding_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(SURROUNDINGS)
    assert all(each.says in line for each, line in zip(SURROUNDINGS.values(), lines, strict=True))


def test_commit_hash_decides_and_every_surrounding_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    commit = "7be4c3a4c0ffee00000000000000000000000000"
    names = set()
    for _ in range(2):
        assert main(["--draw", commit]) == 0
        names.add(capsys.readouterr().out.strip())
    assert names == {drawn(commit)}
    to_draw = {name for name, each in SURROUNDINGS.items() if each.is_drawn}
    assert {drawn(f"{number:040x}") for number in range(len(to_draw))} == to_draw
    assert "load" not in to_draw


def test_surroundings_are_drawn_in_ci_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    assert surroundings.name_for_this_run() is None
    monkeypatch.setenv("CI", "true")
    head = subprocess.run(["git", "-C", FILE.parent, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    assert surroundings.name_for_this_run() == (drawn(head.stdout.strip()) if head.returncode == 0 else None)


@pytest.mark.parametrize("status", [0, 3])
def test_exit_status_of_the_command_is_returned(status: int) -> None:
    command = [sys.executable, str(FILE), "kathmandu", "--", sys.executable, "-c", f"raise SystemExit({status})"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr == "surroundings: kathmandu (TZ=Asia/Kathmandu, 5:45 ahead of UTC)\n"


@pytest.mark.parametrize("status", [0, 3])
def test_command_runs_with_a_message_when_the_surrounding_cannot_be_made(
    status: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def cannot(run: Run) -> None:
        surroundings.tool("no-such-program", "no-such-package")

    monkeypatch.setitem(SURROUNDINGS, "turkish", Surrounding("LANG=tr_TR.UTF-8", cannot))
    assert main(["turkish", "--", sys.executable, "-c", f"print('ran'); raise SystemExit({status})"]) == status
    out, err = capfd.readouterr()
    assert out == "ran\n"
    assert "turkish cannot be made here: no-such-program is not installed" in err
    assert "apt-get install no-such-package" in err
    assert "runs as it is" in err


def test_all_fails_if_one_fails_and_names_skipped_surroundings(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def marked(run: Run) -> None:
        run.env["MARKED"] = "3"

    def cannot(run: Run) -> None:
        raise CannotMake("it is Monday")

    made = {"plain": lambda run: None, "marked": marked, "other": cannot}
    monkeypatch.setattr(surroundings, "SURROUNDINGS", {name: Surrounding(name, make) for name, make in made.items()})
    code = "import os; raise SystemExit(int(os.environ.get('MARKED', '0')))"
    assert main(["all", "--", sys.executable, "-c", code]) == 1
    said = capfd.readouterr().err
    assert "plain: passed" in said
    assert "marked: failed with exit status 3" in said
    assert "other: not made: it is Monday" in said


def test_surrounding_without_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["kathmandu"])
    assert "after --, a command" in capsys.readouterr().err


def test_kathmandu_changes_the_time_zone() -> None:
    assert python_in("kathmandu", "import time; print(time.strftime('%z'))") == "+0545"


def test_turkish_changes_the_locale() -> None:
    code = "import locale; locale.setlocale(locale.LC_ALL, ''); print(locale.localeconv()['decimal_point'], locale.str(1.5))"
    assert python_in("turkish", code) == ", 1,5"


@pytest.mark.parametrize(("name", "days"), [("year-ahead", 400), ("month-ago", -30)])
def test_other_day_shifts_the_clock_and_file_times(name: str, days: int, tmp_path: Path) -> None:
    file = tmp_path / "file"
    code = f"import os, time; open({str(file)!r}, 'w').close(); print(time.time(), os.stat({str(file)!r}).st_mtime)"
    shown = [float(number) for number in python_in(name, code).split()]
    assert shown == pytest.approx([time.time() + days * DAY_S] * 2, abs=TOLERANCE_S)


@pytest.mark.parametrize(("name", "before", "after"), [("to-summer-time", 1, 2), ("from-summer-time", 2, 1)])
def test_daylight_saving_changes_within_two_minutes(name: str, before: int, after: int) -> None:
    code = "import time; t = time.time(); print(*(time.localtime(t + s).tm_gmtoff // 3600 for s in (-60, 90)))"
    assert python_in(name, code) == f"{before} {after}"


def test_loopback_has_no_other_network_interface() -> None:
    code = "import socket; print(*(name for _, name in socket.if_nameindex()))"
    assert python_in("loopback", code) == "lo"
