"""The place of a thing in the picture: the arithmetic, and the accuracy of the built-in model."""

from pathlib import Path

import numpy as np
import pytest

from agent.evaluation.clips import DRAW_SIZE
from model.config import ConfigError
from model.history import ArrayHistory
from model.pointing import boxes_of, centres, presence_of, shown, side_during_stay, side_of, stay
from model.video_model import VideoModel
from model.world.draw import degrade, draw
from model.world.scene import Scene, patch_labels
from model.world.things import COLOURS, KINDS
from tests.support.tiny import make_checkpoint

POINTING = {"scale": 24.0, "bias": -7.8}


def at(*columns: int, side: int = 4) -> np.ndarray:
    """Make the presence of one frame with the thing in row 1 of the given columns."""
    found = np.zeros((len(columns), side, side), np.float32)
    found[np.arange(len(columns)), 1, list(columns)] = 1
    return found.reshape(len(columns), -1)


def test_cosine_becomes_odds() -> None:
    found = presence_of(np.array([[7.8 / 24, 1.0, -1.0, np.nan]], np.float32), POINTING)
    np.testing.assert_allclose(found, [[0.5, 1, 0, 0]], atol=1e-6)
    assert shown(np.array([[0.2, 0.6], [0.4, 0.5]], np.float32)).tolist() == [True, False]


def test_stay_bridges_only_short_gaps() -> None:
    shows = np.zeros(25, bool)
    shows[[0, 7, 8, 12, 24]] = True
    times = np.arange(25.0)
    assert stay(shows, 8, times).tolist() == [7, 8, 12]
    assert stay(shows, 10, times).tolist() == [7, 8, 12]
    assert stay(shows, 0, times).tolist() == [0]
    assert stay(shows, 24, times).tolist() == [24]
    assert stay(shows, 8, times + 3600 * (times >= 11)).tolist() == [7, 8]  # a gap of an hour in the recording
    assert stay(shows, 8, 60 * times).tolist() == [7, 8]  # a slow camera, one frame a minute
    assert stay(np.zeros(4, bool), 2, times[:4]).tolist() == []


def test_no_side_is_named_when_nothing_is_pointed_at() -> None:
    times = np.arange(3.0)
    assert side_during_stay(np.full((3, 16), 0.4, np.float32), 3, times) == ""
    assert side_during_stay(at(0, 0, 0), 3, times) == "on the left of the picture"


def test_points_become_sides_of_the_picture() -> None:
    assert side_of(at(0, 0, 0)) == "on the left of the picture"
    assert side_of(at(3, 2, 3, 3)) == "on the right of the picture"
    middle = (at(1) + at(2)) / 2
    assert side_of(middle) == "in the middle of the picture"
    assert side_of(np.concatenate([at(0), middle, at(3)])) == "from the left to the right of the picture"
    assert side_of(np.concatenate([at(3), middle, at(3)])) == "on the right of the picture"  # it returned to the right
    np.testing.assert_allclose(centres(at(0, 3)), [0.125, 0.875])


def test_adjoining_patches_share_a_box() -> None:
    grid = np.zeros((8, 8), np.float32)
    grid[1:3, 0:2], grid[3, 2], grid[6, 7] = 0.9, 0.8, 0.6  # the second box touches the first at a corner
    grid[0, 5] = 0.4
    assert boxes_of(grid.ravel()) == ((0, 0.125, 0.375, 0.5), (0.875, 0.75, 1, 0.875))
    assert boxes_of(np.zeros(64, np.float32)) == ()


def test_checkpoint_holds_its_pointing_settings(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "tiny")
    assert VideoModel.load(folder).config.live.pointing is None
    assert VideoModel.load(folder, overwrite={"vilamp_live": {"pointing": POINTING}}).config.live.pointing == POINTING
    for wrong in ({"scale": 1.0}, {"scale": "x", "bias": 1.0}, True):
        with pytest.raises(ConfigError, match="scale and bias"):
            VideoModel.load(folder, overwrite={"vilamp_live": {"pointing": wrong}})
    blind = make_checkpoint(tmp_path / "blind", composer="average_pooling")
    with pytest.raises(ConfigError, match="compares no patch"):
        VideoModel.load(blind, overwrite={"vilamp_live": {"pointing": POINTING}})


def test_built_in_model_points_at_the_thing_asked_about() -> None:
    """In layouts of the evaluation split, most merging weight lies on the thing, and its side is named."""
    model = VideoModel.load(Path("model/builtin"), num_threads=1)
    on_it, right, absent = [], [], []
    for seed in range(6):
        scene = Scene.from_seed(seed, duration_s=120.0, split="eval", density=2.0)
        rng = np.random.default_rng(seed)
        seconds = [float(t) for t in range(0, 120, 6)]
        frames = model.encode([degrade(draw(scene, t, *DRAW_SIZE), rng) for t in seconds])
        history = ArrayHistory(frames)
        for row, second in enumerate(seconds):
            kinds, colours = (labels.ravel() for labels in patch_labels(scene, second, model.config.side))
            for visible in scene.visible_at(second, min_fraction=0.6):
                kind, colour = KINDS.index(visible.kind), COLOURS.index(visible.colour)
                its = (kinds == kind) & (colours == colour)
                if visible.action == "closed" or not its.any():
                    continue
                query = model.embed_text(f"did any {visible.colour} {visible.kind} ever come?").merge_query
                merged = model.merger.merge(history, np.array([], np.int64), query, keep_weights=True)
                assert merged.weights is not None
                on_it.append(float(merged.weights[row].numpy()[its].sum()))
                found = model.merger.presence(history, np.array([row]), query)
                assert found is not None
                truth = its.astype(np.float32)[None]
                right.append(abs(float(centres(found)[0] - centres(truth)[0])) < 1 / 6)
            missing = next(c for c in COLOURS if not ((colours == COLOURS.index(c)) & (kinds >= 0)).any())
            query = model.embed_text(f"did any {missing} truck ever come?").merge_query
            found = model.merger.presence(history, np.array([row]), query)
            assert found is not None
            absent.append(bool(shown(found)[0]))
    assert len(on_it) > 60
    assert np.mean(on_it) > 0.8, np.mean(on_it)  # by chance: one or two of 64 patches
    assert np.mean(right) > 0.9, np.mean(right)
    assert np.mean(absent) < 0.1, np.mean(absent)
