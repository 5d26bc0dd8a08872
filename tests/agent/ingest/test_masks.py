"""Privacy masks: what is stored does not depend on what was covered, on real pixels, live and replayed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.ingest.jpeg import decode_jpeg, encode_jpeg
from agent.ingest.masks import MARGIN_PX, Masks, covered
from agent.settings.settings import Settings
from agent.settings.source import ConfigError, load_settings
from streaming.frame import Frame
from tests.support.agents import START, ListSource, running

SQUARE = ((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75))


def noise(seed: int, height: int = 120, width: int = 160) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_worked_example() -> None:
    columns = np.flatnonzero(covered([SQUARE], 40, 40).any(axis=0))
    assert (columns[0], columns[-1]) == (5, 35)


def test_nothing_of_what_is_covered_is_in_the_stored_picture() -> None:
    """Two pictures that differ only under the mask give the same JPEG, byte for byte."""
    masks = Masks([SQUARE, ((0.0, 0.0), (0.2, 0.0), (0.0, 0.3))])
    where = covered([SQUARE, ((0.0, 0.0), (0.2, 0.0), (0.0, 0.3))], 120, 160)
    scene, other = noise(1), noise(2)
    other[~where] = scene[~where]
    assert not np.array_equal(scene, other)
    stored = encode_jpeg(masks.apply(scene))
    assert stored == encode_jpeg(masks.apply(other))
    seen = decode_jpeg(stored).astype(int)
    inner = covered([SQUARE], 120, 160)
    inner[:40], inner[80:] = False, False  # away from the edges, which JPEG blurs
    inner[:, :55], inner[:, 105:] = False, False
    assert seen[inner].max() < 8
    assert np.array_equal(scene, noise(1))  # the picture itself is left as it was


@given(
    points=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=7),
    height=st.integers(16, 90),
    width=st.integers(16, 90),
)
@example(points=[(0.0, 0.75), (0.75, 0.6875), (0.75, 0.6875)], height=39, width=46)
@settings(max_examples=60, deadline=None)
def test_every_pixel_of_a_triangle_is_covered_with_a_margin(
    points: list[tuple[float, float]], height: int, width: int
) -> None:
    """Points inside, found without drawing: random mixtures of three corners."""
    corners = np.array(points[:3]) * (width, height)
    weights = np.random.default_rng(0).dirichlet((1, 1, 1), 200)
    mask = covered([points[:3]], height, width)
    for x, y in weights @ corners:
        column, row = min(int(x), width - 1), min(int(y), height - 1)
        around = mask[max(0, row - 3) : row + 4, max(0, column - 3) : column + 4]
        assert around.all()
    assert MARGIN_PX >= 4


async def test_live_frames_are_masked_before_anything_is_kept(tmp_path: Path) -> None:
    cameras = {"gate": {"masks": [SQUARE]}, "open": {}}
    scene = noise(1)
    async with running(tmp_path, cameras=cameras) as agent:
        for camera in cameras:
            await agent.cameras.watch(camera, ListSource(camera, [Frame(START, scene, "arrival")]))
        await agent.encoded()
        gate, bare = (agent.store.window((camera,)) for camera in cameras)
        assert decode_jpeg(gate.jpeg(0))[50:70, 70:90].max() < 8
        assert decode_jpeg(bare.jpeg(0))[50:70, 70:90].mean() > 90
        assert not np.array_equal(gate.embeddings([0]), bare.embeddings([0]))
        # what was computed from it is what the stored picture gives: the encoder never saw more
        again = agent.model.encode([decode_jpeg(gate.jpeg(0))])[0]
        unit = again.embedding / np.linalg.norm(again.embedding)
        np.testing.assert_allclose(gate.embeddings([0])[0], unit, atol=2e-3)


async def test_a_camera_that_changes_its_size_stays_masked(tmp_path: Path) -> None:
    masks = Masks([SQUARE])
    for height, width in ((48, 64), (120, 160), (48, 64)):
        assert masks.apply(noise(3, height, width))[height // 2, width // 2].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ([[[0, 0], [1, 0]]], "3 to 100 points"),
        ([[[0, 0], [320, 0], [320, 180]]], "outside the picture"),
        ([[[0, 0], [0.5, 0.5], [1, 1]]], "one line"),
        ([[[0, 0], [1, 0], [-0.1, 1]]], "outside the picture"),
        ([[[0, 0, 0], [1, 0, 0], [1, 1, 0]]], "masks"),
        ([[0, 0, 1, 1]], "masks"),
        ("all", "masks"),
    ],
)
def test_a_mask_that_is_none_is_refused_with_advice(tmp_path: Path, masks: Any, said: str) -> None:
    import yaml

    path = tmp_path / "vilamp.yaml"
    path.write_text(yaml.safe_dump({"cameras": {"gate": {"masks": masks}}}))
    with pytest.raises(ConfigError, match=said):
        load_settings(path, environ={})


def test_masks_are_settings_like_others() -> None:
    given = Settings.model_validate({"cameras": {"gate": {"masks": [[[0, 0], [0.5, 0], [0.5, 0.5]]]}}})
    assert given.camera("gate").masks == (((0, 0), (0.5, 0), (0.5, 0.5)),)
    assert Settings().camera("gate").masks == ()
