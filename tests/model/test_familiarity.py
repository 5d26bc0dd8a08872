"""The built-in model recognises pictures from outside its training world and refuses to answer about them."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest

from model.config import ConfigError
from model.familiarity import (
    CANNOT_TELL,
    FILE_NAME,
    Familiarity,
    layout_statistics,
    read_familiarity,
    write_familiarity,
)
from model.features import FrameFeatures
from model.history import ArrayHistory
from model.select import Keyframes
from model.training.familiarity import FOREIGN, fit
from model.video_model import VideoModel
from model.world.draw import degrade, draw
from model.world.scene import Scene

ROOT = Path(__file__).parents[2]
FOOTAGE = ROOT.parent / "shared" / "footage"
CLIPS = sorted(FOOTAGE.glob("*.mp4"))


@cache
def builtin() -> VideoModel:
    return VideoModel.load(ROOT / "model" / "builtin", num_threads=1)


def said(pictures: list[np.ndarray], group_sizes: list[int] | None = None) -> tuple[str, tuple[bool, ...]]:
    """Return the answer of the model and, per camera, whether it was judged foreign. All pictures are keyframes."""
    model, history = builtin(), ArrayHistory()
    features: list[FrameFeatures] = model.encode(pictures)
    history.extend(features)
    count = len(pictures)
    keyframes = Keyframes(np.arange(count), ("relevant",) * count, np.zeros(count, np.float32))
    query = model.embed_text("has a red car been here?")
    context = model.build_context(history, keyframes, query, group_sizes=group_sizes or [count])
    clocks = [f"10:00:{number:02}" for number in range(count)]
    words = model.stream("has a red car been here?", context, timestamps=clocks, max_new_tokens=8)
    return "".join(words).strip(), context.foreign_groups


def world(seed: int, count: int = 6) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    scene = Scene.from_seed(seed, duration_s=120.0, split="eval", density=1.0)
    return [degrade(draw(scene, float(t), 320, 180), rng) for t in rng.uniform(0, 120, count)]


@pytest.mark.parametrize("seed", range(40_001, 40_009))
def test_frames_of_the_training_world_are_familiar(seed: int) -> None:
    words, foreign = said(world(seed))
    assert words != CANNOT_TELL
    assert foreign == (False,)


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.stem)
def test_real_footage_is_unfamiliar(clip: Path) -> None:
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        stream.codec_context.skip_frame = "NONKEY"
        decoded = [frame for _, frame in zip(range(8), container.decode(stream), strict=False)]
        pictures = [frame.reformat(width=640, height=360, format="rgb24").to_ndarray() for frame in decoded]
    words, foreign = said(pictures)
    assert words == CANNOT_TELL
    assert foreign == (True,)


def test_footage_folder_has_clips() -> None:
    if not FOOTAGE.exists():
        pytest.skip("no ../shared/footage: real clips are not part of the project")
    assert len(CLIPS) >= 5


def test_noise_and_blank_pictures_are_unfamiliar() -> None:
    rng = np.random.default_rng(3)
    noise = [rng.integers(0, 256, (180, 320, 3), np.uint8) for _ in range(4)]
    grey = [np.full((180, 320, 3), value, np.uint8) for value in (20, 90, 128, 200)]
    assert said(noise)[0] == CANNOT_TELL
    assert said(grey)[0] == CANNOT_TELL


def test_each_camera_is_judged_separately() -> None:
    rng = np.random.default_rng(4)
    noise = [rng.integers(0, 256, (180, 320, 3), np.uint8) for _ in range(3)]
    words, foreign = said([*noise, *world(40_003, 3)], [3, 3])
    assert foreign == (True, False)
    assert words != CANNOT_TELL  # the other camera is familiar, so the model answers


def test_missing_statistics_file_means_no_familiarity_check(tmp_path: Path) -> None:
    assert read_familiarity(tmp_path, 8) is None


# --- the classifier ---


def made(width: int = 3, shift: float = 4.0) -> tuple[Familiarity, np.ndarray, np.ndarray]:
    """A classifier fitted to random patches (n, 16, width) around 0, foreign ones around `shift`."""
    rng = np.random.default_rng(0)
    near, far = rng.normal(0, 1, (300, 16, width)), rng.normal(shift, 1, (300, 16, width))
    worlds = [(layout_statistics(near[k : k + 4]), layout_statistics(far[k : k + 4])) for k in range(0, 240, 4)]
    return replace(fit(worlds, 0), limit=np.zeros(1, np.float32)), near[240:], far[240:]


def test_fit_separates_known_from_foreign_frames() -> None:
    familiarity, near, far = made()
    assert not familiarity.is_foreign(familiarity.scores(near))
    assert familiarity.is_foreign(familiarity.scores(far))
    assert familiarity.scores(far).min() > familiarity.scores(near).max()


def test_median_score_decides() -> None:
    familiarity, near, far = made()
    assert not familiarity.is_foreign(familiarity.scores(np.concatenate([near[:3], far[:2]])))
    assert familiarity.is_foreign(familiarity.scores(np.concatenate([near[:2], far[:3]])))
    assert not familiarity.is_foreign(np.zeros(0, np.float32))


def test_saved_statistics_score_the_same(tmp_path: Path) -> None:
    familiarity, near, far = made()
    write_familiarity(tmp_path, familiarity)
    again = read_familiarity(tmp_path, 3)
    assert again is not None
    assert np.array_equal(again.scores(near), familiarity.scores(near))
    assert np.array_equal(again.scores(far), familiarity.scores(far))


def test_statistics_of_another_network_are_refused(tmp_path: Path) -> None:
    write_familiarity(tmp_path, made()[0])
    with pytest.raises(ConfigError, match="does not belong"):
        read_familiarity(tmp_path, 5)
    (tmp_path / FILE_NAME).write_bytes(b"\x08\0\0\0\0\0\0\0{broken}")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_familiarity(tmp_path, 3)


def test_statistics_match_a_computation_by_hand() -> None:
    values = np.arange(8, dtype=np.float32).reshape(1, 8, 1)  # eight patches, bands of two
    deviation = float(np.std(np.arange(8)))
    assert layout_statistics(values)[0].tolist() == pytest.approx([0.5, 2.5, 4.5, 6.5, deviation])


@pytest.mark.parametrize("make", FOREIGN, ids=lambda make: make.__name__.strip("_"))
def test_foreign_pictures_are_valid_arrays(make: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> None:
    picture = world(40_001, 1)[0]
    foreign = make(picture, np.random.default_rng(5))
    assert foreign.shape == (180, 320, 3)
    assert foreign.dtype == np.uint8
    assert not np.array_equal(foreign, picture)
