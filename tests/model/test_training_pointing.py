"""Training to point, on frames whose features encode what each patch shows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from model.checkpoint import Checkpoint, load_checkpoint
from model.training.data import History, labels_at
from model.training.pointing import NOTHING, Pointing, texts_by_name, truth_of
from model.training.store import FeatureStore
from model.world.scene import Scene
from model.world.things import COLOURS, KINDS
from tests.support import tiny

NUM_FRAMES = 60


def store_of(checkpoint: Checkpoint, labels: torch.Tensor) -> FeatureStore:
    """Features with one direction for each kind and colour that a patch shows."""
    config = checkpoint.config
    width = config.vision.tower.hidden_size
    generator = torch.Generator().manual_seed(0)
    codes = [torch.randn(n + 1, width, generator=generator) for n in (len(KINDS), len(COLOURS))]  # -1: the background's
    patches = sum(code[labels[:, i].long()] for i, code in enumerate(codes))
    assert isinstance(patches, torch.Tensor)
    store = FeatureStore(
        len(labels), (config.num_patches, width), config.dual_encoder.projection_dim, torch.device("cpu")
    )
    store.add(
        History(torch.empty(0), (), labels), torch.zeros(len(labels), config.dual_encoder.projection_dim), patches
    )
    return store


def random_labels(num_patches: int, things: Sequence[tuple[int, int]]) -> torch.Tensor:
    """One thing in one patch of each frame; the last third of the frames is empty."""
    rng = np.random.default_rng(0)
    labels = torch.full((NUM_FRAMES, 2, num_patches), -1, dtype=torch.int8)
    for frame in range(NUM_FRAMES * 2 // 3):
        labels[frame, :, rng.integers(num_patches)] = torch.tensor(things[frame % len(things)], dtype=torch.int8)
    return labels


def test_training_to_point_changes_only_the_pointing_maps(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny.make_checkpoint(tmp_path / "model", patch_features="vision"))
    store = store_of(checkpoint, random_labels(checkpoint.config.num_patches, [(0, 0), (1, 1), (2, 0)]))
    pointing = Pointing(checkpoint, store, [1], size=32)
    maps = pointing.maps
    optimizer = torch.optim.AdamW(maps.parameters(), lr=1e-2)
    found = []
    for _ in range(60):
        pointed = pointing.loss()
        optimizer.zero_grad()
        pointed.total.backward()
        optimizer.step()
        found.append(pointed.weight_on_it)
    assert found[0] < 0.3, found[0]
    assert np.mean(found[-10:]) > 0.8, np.mean(found[-10:])
    learnt = {name for name, weight in checkpoint.network.named_parameters() if weight.grad is not None}
    assert learnt == {f"composer.{name}" for name, _ in maps.named_parameters()}


def test_empty_frames_teach_only_absence(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny.make_checkpoint(tmp_path / "model", patch_features="vision"))
    labels = torch.full((8, 2, checkpoint.config.num_patches), -1, dtype=torch.int8)
    pointed = Pointing(checkpoint, store_of(checkpoint, labels), [1], size=4).loss()
    assert pointed.weight_on_it == 0
    assert torch.isfinite(pointed.total)


def test_kind_and_colour_are_read_from_a_text() -> None:
    labels = torch.tensor([[[0, 1, -1], [2, 2, -1]]] * 4, dtype=torch.int8)
    names = [(0, 2), (NOTHING, 2), (0, NOTHING), (NOTHING, NOTHING)]
    assert truth_of(names, labels).tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 0]]
    texts = texts_by_name()
    assert "did a red truck ever come?" in texts[KINDS.index("truck"), COLOURS.index("red")]
    assert "what is here now?" in texts[NOTHING, NOTHING]
    assert not any("leave" in text or "before" in text for group in texts.values() for text in group)


def test_patch_labels_follow_the_scene() -> None:
    scene = Scene.from_seed(5, duration_s=60.0, density=2.0)
    labels = labels_at(scene, [float(t) for t in range(60)])
    assert labels.shape == (60, 2, 64)
    assert ((labels[:, 0] >= 0) == (labels[:, 1] >= 0)).all()
    for t in (10, 30, 50):
        shown = {(v.kind, v.colour) for v in scene.visible_at(float(t), min_fraction=0.6)}
        kinds, colours = labels[t]
        labelled = {(KINDS[k], COLOURS[c]) for k, c in zip(kinds[kinds >= 0], colours[kinds >= 0], strict=True)}
        assert shown <= labelled
