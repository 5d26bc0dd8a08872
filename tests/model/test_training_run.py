"""`vilamp train` for seconds instead of minutes: interrupted, continued to the end, and started from a checkpoint."""

import json
from pathlib import Path

import pytest
import torch

from model.checkpoint import load_checkpoint
from model.training import curves
from model.training.run import main
from model.video_model import VideoModel
from tests.support import tiny

SHORT = ("--device", "cpu", "--workers", "0", "--histories", "2", "--familiarity-worlds", "3")


def stages_done(folder: Path) -> list[str]:
    found: list[str] = json.loads((folder / "progress.json").read_text())
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from nothing, interrupted once and continued to the end."""
    folder = tmp_path_factory.mktemp("training") / "out"
    seconds = ("--tower-seconds", "6", "--answer-seconds", "2")
    assert main(["--folder", str(folder), *SHORT, *seconds, "--slice-seconds", "1"]) == 0
    assert (folder / "towers.safetensors").exists()  # the interrupted stage is saved
    assert not (folder / "progress.json").exists()
    assert main(["--folder", str(folder), *SHORT, *seconds]) == 0
    return folder


def test_training_from_nothing_makes_a_loadable_checkpoint(trained: Path, tmp_path: Path) -> None:
    assert stages_done(trained) == ["towers", "answers", "familiarity"]
    assert not list(trained.glob("*.safetensors"))  # intermediate files are removed
    model = VideoModel.load(trained / "checkpoint")
    features = model.encode(tiny.make_pictures(3))
    assert features[0].embedding.shape == (128,)
    assert (trained / "checkpoint" / "familiarity.safetensors").exists()
    lines = [json.loads(line) for line in (trained / "curves.jsonl").read_text().splitlines()]
    assert lines[0]["stage"] == "towers"
    assert all(line["loss"] > 0 for line in lines if "loss" in line)
    curves.main([str(trained / "curves.jsonl"), str(tmp_path / "curves.png")])
    assert (tmp_path / "curves.png").stat().st_size > 5_000


def test_finished_run_does_nothing_when_started_again(trained: Path) -> None:
    before = (trained / "curves.jsonl").read_text()
    assert main(["--folder", str(trained), *SHORT]) == 0
    assert (trained / "curves.jsonl").read_text() == before


def test_training_from_a_checkpoint_keeps_its_encoders(trained: Path, tmp_path: Path) -> None:
    started = trained / "checkpoint"
    more = ("--start", str(started), "--answer-seconds", "2", "--answer-rate", "1e-4")
    assert main(["--folder", str(tmp_path), *SHORT, *more]) == 0
    assert stages_done(tmp_path)[:2] == ["towers", "answers"]
    before, after = (load_checkpoint(folder).network.state_dict() for folder in (started, tmp_path / "checkpoint"))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert "language_model" in changed
    assert not changed & {"vision_tower", "dual_encoder"}
