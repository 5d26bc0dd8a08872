"""The demo: clock and questions as pure logic, then a short run with real processes and WebRTC."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from agent.cli.client import Reply
from agent.cli.demo.demo import Result, _conclude
from agent.cli.demo.world import (
    Show,
    WorldClock,
    judge,
    on_our_clock,
    pick_questions,
    pick_world,
    spans_in_words,
    steady_moment,
)
from agent.cli.main import main
from agent.cli.sheet import Section, Tile, write_sheet
from agent.times import format_clock
from model.world.answers import Question
from model.world.scene import Scene
from tests.support.processes import vilamp
from tests.support.tiny import make_checkpoint

WALL = 1795364645.0  # 2026-11-22 16:24:05 UTC


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene.from_seed(7, duration_s=400, style="fixed", split="eval")


def shown(scene: Scene, *, fast_until: float = 300.0, speed: float = 6.0) -> Show:
    """A show whose fast part is over, without drawing it."""
    show = Show(scene, rate_hz=12.0, speed=speed, fast_until=fast_until)
    show.clock.note(WALL, 0.0)
    show.clock.note(WALL + fast_until / speed, fast_until)
    return show


def test_world_clock_converts_both_ways() -> None:
    clock = WorldClock()
    for wall, world in ((100.0, 0.0), (101.0, 6.0), (102.0, 7.0)):
        clock.note(wall, world)
    assert clock.world(100.5) == 3.0
    assert clock.wall(6.5) == 101.5
    assert (clock.wall(-1.0), clock.wall(99.0)) == (100.0, 102.0)


async def test_show_runs_fast_stops_and_continues(scene: Scene) -> None:
    show = Show(scene, rate_hz=4.0, speed=8.0, fast_until=5.0, now=lambda: WALL)
    pictures = show.pictures()
    frames = []
    for number in range(9):
        if number == 6:
            assert show.standing.is_set()
            show.go_on.set()
        frames.append(await anext(pictures))
    await pictures.aclose()
    assert show.clock.worlds == [0.0, 2.0, 4.0, 5.0, 5.0, 5.0, 5.5, 6.0, 6.5]
    assert [frame.time - WALL for frame in frames] == [0, 0.25, 0.5, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25]
    assert show.clock.walls == [frame.time for frame in frames]
    assert frames[0].image.shape == (180, 320, 3)


def test_picked_world_answers_enough_questions() -> None:
    scene, until = pick_world(7, fast_s=300.0, after_s=60.0, enough=6)
    assert (scene.style, scene.split) == ("fixed", "eval")
    assert 270.0 <= until <= 360.0
    assert len(pick_questions(scene, until, 9)) >= 6
    assert pick_world(7, fast_s=20.0, after_s=20.0, enough=99)[0].seed > 7  # the last one tried, when none can


def test_questions_are_diverse_and_repeatable() -> None:
    scene, until = pick_world(7, fast_s=300.0, after_s=60.0, enough=6)
    picked = pick_questions(scene, until, 9)
    assert picked == pick_questions(scene, until, 9)
    assert len({question.family for question in picked}) >= 5
    assert len({question.text for question in picked}) == len(picked)
    assert len(pick_questions(scene, until, 3)) == 3


def test_times_are_judged_in_wall_time(scene: Scene) -> None:
    show = shown(scene)
    question = Question("when", "when did the red car come?", "@66.0", None, ((60.0, 72.0),))
    for zone in ("UTC", "Asia/Tokyo"):
        ours = on_our_clock(question, show.clock, zone)
        assert ours.spans == ((WALL + 10.0, WALL + 12.0),)
        truth = format_clock(WALL + 11.0, zone)
        assert judge(ours, Reply(truth)) == (True, truth)
        assert judge(ours, Reply(f"{truth}\n\n(12 s of video so far.)"))[0]
        assert judge(ours, Reply(format_clock(WALL + 14.0, zone)))[0]  # 2 s after the last sight
        assert not judge(ours, Reply(format_clock(WALL + 15.0, zone)))[0]
        assert not judge(ours, Reply(format_clock(WALL + 6.0, zone)))[0]
    assert spans_in_words(question.spans) == "world 60-72 s"
    assert spans_in_words(()) == ""


def test_present_is_where_the_world_stops(scene: Scene) -> None:
    moment = steady_moment(scene, 0.0, 300.0)
    assert moment is not None
    present = pick_questions(scene, moment, 1)[0]
    assert present.family == "present"
    right, truth = judge(present, Reply("nothing"))
    assert not right
    assert truth.split()[0] in ("a", "an")
    assert judge(present, Reply(truth.capitalize()))[0]
    assert steady_moment(scene, 10.0, 10.0) is None


def test_contact_sheet_has_every_section(tmp_path: Path) -> None:
    jpeg = tmp_path / "a.jpg"
    Image.new("RGB", (64, 36), (200, 0, 0)).save(jpeg)
    tile = Tile(jpeg.read_bytes(), "16:24:05 relevant 0.31")
    section = Section("a red car? " * 30, "yes\ntruth: yes", [tile] * 5 + [Tile(b"gone", "grey")])
    write_sheet(tmp_path / "new" / "sheet.png", [section, replace(section, tiles=[])])
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        reds = sum(r > 150 and g < 60 for r, g, _ in sheet.get_flattened_data())
    assert reds == 5 * 64 * 36  # pictures keep their size when they fit
    write_sheet(tmp_path / "sheet.png", [replace(section, tiles=[replace(tile, boxes=[[0.25, 0.25, 0.75, 0.75]])])])
    with Image.open(tmp_path / "sheet.png") as sheet:
        outlined = sum(r > 200 and 150 < g < 220 and b < 60 for r, g, b in sheet.get_flattened_data())
    assert outlined == 2 * 2 * (32 + 18) - 16  # a line of two pixels
    with pytest.raises(OSError, match="Is a directory"):
        write_sheet(tmp_path, [section])


def test_demo_streams_asks_and_ends(tmp_path: Path) -> None:
    checkpoint, out = make_checkpoint(tmp_path / "tiny"), tmp_path / "out"
    ran = vilamp("demo", "--out", str(out), "--model", str(checkpoint), "--seconds", "5")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "runs 6 times as fast as ours" in ran.stdout
    for expected in ("[1/", "[6/", "truth  ", "evidence  ", "ms: queue", "questions answered"):
        assert expected in ran.stdout
    with Image.open(out / "evidence.png") as sheet:
        assert sheet.format == "PNG"


def test_unanswered_question_is_a_failure(tmp_path: Path) -> None:
    console, question = Console(quiet=True), Question("count", "How many cars came?", "two", None)
    answered = Result(question, Reply(text="two"), True, "two")
    assert _conclude(console, [answered, answered], tmp_path) == 0
    assert _conclude(console, [answered, Result(question, None, False, "")], tmp_path) == 1
    assert _conclude(console, [answered, Result(question, Reply(text=" "), False, "")], tmp_path) == 1
    assert _conclude(console, [], tmp_path) == 1


def test_demo_prints_why_it_cannot_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as usage:
        main(["demo", "--out", str(tmp_path), "--speed", "0"])
    assert usage.value.code == 2
    assert main(["demo", "--out", str(tmp_path / "out"), "--model", str(tmp_path / "absent")]) == 1
    complaints = capsys.readouterr().err
    assert "--speed: 0 is not between 0.01 and 24" in complaints
    assert "the server ended with code 1" in complaints
    assert "absent" in complaints
