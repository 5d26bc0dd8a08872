"""The evaluation of alert rules, on 90 seconds of a drawn world with the built-in model."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.cli.main import main
from agent.evaluation.alert_truth import Armed, arm
from agent.evaluation.alerts import World, both, gate_alone, judge_alone, sweep, world_in_memory
from agent.settings.rules import GateSettings
from model.video_model import VideoModel

GATE = GateSettings()
SEED, SECONDS = 10, 90  # a red truck comes at 45 s, an orange one at 74 s


@pytest.fixture(scope="module")
def model() -> VideoModel:
    return VideoModel.load(Path(__file__).parents[3] / "model" / "builtin", num_threads=1)


@pytest.fixture(scope="module")
def world(model: VideoModel) -> Iterator[World]:
    with world_in_memory(model, SEED, SECONDS, lambda what, done, total: None) as made:
        yield made


@pytest.fixture(scope="module")
def red_truck(world: World) -> Armed:
    """The first type of rule is about a truck of a colour; which one, the generator decides."""
    draws = (arm(world.scene, world.times, np.random.default_rng(seed))[0] for seed in range(20))
    return next(armed for armed in draws if armed.condition == "a red truck comes")


def test_world_is_stored_frame_by_frame(world: World) -> None:
    assert len(world.frame_ids) == SECONDS == len(world.units)
    assert np.linalg.norm(world.units, axis=1) == pytest.approx(1, abs=1e-5)
    assert world.encode_s > 0


async def test_gate_and_judge_report_the_red_truck_only(model: VideoModel, world: World, red_truck: Armed) -> None:
    done = await both(world, red_truck, model.embed_text(red_truck.condition).unit, GATE)
    assert done.result.found == (True,)
    assert done.result.false_s == ()
    assert 0 < done.num_asked < SECONDS / 2
    assert (
        done.result.delays_s[0] > 0.75
    )  # in view at 45.25 s; the second of two verdicts is about second 46 at the earliest


async def test_gate_alone_confuses_the_orange_truck_with_the_red_one(
    model: VideoModel, world: World, red_truck: Armed
) -> None:
    done = await gate_alone(world, red_truck, model.embed_text(red_truck.condition).unit, GATE)
    assert done.result.found == (True,)
    assert any(74 <= second <= 85 for second in done.result.false_s)
    assert done.num_asked == 0


async def test_the_judge_alone_is_asked_about_every_frame(world: World, red_truck: Armed) -> None:
    done = await judge_alone(world, red_truck, (40, 64))
    assert done.num_asked == 24
    assert done.result.found == (True,)
    empty = await judge_alone(world, red_truck, (72, 84))  # the orange one; the event lies outside
    assert (empty.result.num_events, empty.result.false_s) == (0, ())


def test_a_higher_threshold_opens_the_gate_for_less(model: VideoModel, world: World, red_truck: Armed) -> None:
    rows = sweep(world, red_truck, model.embed_text(red_truck.condition).unit, GATE)
    shares = [row["open_share"] for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert rows[0]["in_time"] == rows[0]["events"] == 1


def test_the_command_prints_and_writes_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures, picture = tmp_path / "out.json", tmp_path / "out.png"
    given = ["--minutes", "1", "--seeds", "4", "--judge-only-minutes", "0", "--num-threads", "1"]
    assert main(["eval-alerts", *given, "--json", str(figures), "--plot", str(picture)]) == 0
    report = json.loads(figures.read_text())
    assert list(report["arms"]) == ["gate", "both"]
    assert len(report["runs"]) == 2 * 12
    assert report["arms"]["both"]["rule_hours"] == pytest.approx(12 / 60)
    assert "gate only" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "wrong", [["--seeds", "a"], ["--seeds", "-1"], ["--minutes", "0.1"], ["--judge-only-minutes", "-1"]]
)
def test_wrong_usage(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    given = [f"{wrong[0]}={wrong[1]}"]
    with pytest.raises(SystemExit) as ended:
        main(["eval-alerts", *given])
    assert ended.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_missing_model_is_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["eval-alerts", "--model", str(tmp_path / "none")]) == 1
    assert "none" in capsys.readouterr().err
