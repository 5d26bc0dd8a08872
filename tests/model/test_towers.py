"""Training of the encoders at tiny sizes: labels, losses, and learning in a few steps."""

import numpy as np
import pytest
import torch

from model.network import VilampNetwork
from model.training.data import FrameBatch, Frames, Histories, TextBatch, wanted_pairs
from model.training.towers import TowerHeads, TowerTrainer, average_precision, flip_some
from model.world.questions import Query
from model.world.things import COLOURS, KINDS
from tests.support import tiny


def test_query_marks_the_cells_of_its_kind_and_colour() -> None:
    red_car = wanted_pairs(Query("car", "red"))
    assert red_car.sum() == 1
    assert red_car[KINDS.index("car"), COLOURS.index("red")]
    assert wanted_pairs(Query("truck")).sum() == len(COLOURS)
    assert wanted_pairs(Query("car", "red", Query("dog", "blue"))).sum() == 2


def test_same_seed_draws_the_same_frames() -> None:
    first, second = (next(iter(Frames(5, 8, per_scene=8))) for _ in range(2))
    other = next(iter(Frames(6, 8, per_scene=8)))
    assert torch.equal(first["images"], second["images"])
    assert not torch.equal(first["images"], other["images"])
    labelled = (first["kinds"] >= 0).flatten(1).any(1)
    assert torch.equal(labelled, labelled | first["pairs"].flatten(1).any(1))  # visible things are labelled


def test_history_asks_only_about_its_windows() -> None:
    history = next(iter(Histories(3, 60, (20, 40), per_window=8, density=3.0)))
    assert history.images.shape[0] == 60
    for window in history.windows:
        assert 0 <= window.start < window.stop <= 60
        for question in window.questions:
            for first, last in question.spans:
                assert window.start <= last
                assert first <= window.stop


def test_flipping_moves_picture_and_labels_together() -> None:
    images = torch.zeros(40, 4, 4, 3, dtype=torch.uint8)
    images[:, :, 0] = 255  # the left column is bright
    labels = torch.full((40, 4), -1)
    labels[:, [0, 2]] = 1  # 2 x 2 patches, the left ones labelled
    flipped, kinds, _ = flip_some(images, labels, labels, torch.Generator().manual_seed(0))
    moved = flipped[:, 0, -1, 0] == 255
    assert 5 < int(moved.sum()) < 35
    assert torch.equal(kinds[:, 1] == 1, moved)
    assert torch.equal(kinds[:, 0] == 1, ~moved)


def test_average_precision_of_a_known_ranking() -> None:
    scores = torch.tensor([[0.9], [0.8], [0.7], [0.6]])
    truth = torch.tensor([[True], [False], [True], [False]])
    assert average_precision(scores, truth) == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_few_steps_learn_a_few_frames() -> None:
    torch.manual_seed(0)
    network = VilampNetwork(tiny.make_config())
    vision, clip = network.config.vision, network.config.dual_encoder
    heads = TowerHeads(clip.vision.hidden_size, vision.tower.hidden_size, len(KINDS), len(COLOURS))
    trainer = TowerTrainer(network.dual_encoder, network.vision_tower, heads, learning_rate=1e-3)
    pairs = torch.zeros(4, len(KINDS), len(COLOURS), dtype=torch.bool)
    pairs[[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]] = True
    kinds = torch.arange(4)[:, None].expand(4, network.config.num_patches).contiguous()
    frames = FrameBatch(pairs, kinds, kinds.clone())
    wanted = np.stack([wanted_pairs(Query(KINDS[i], COLOURS[i])) for i in range(4)])
    ids = torch.tensor([[clip.bos_token_id, 5 + i, clip.eos_token_id] for i in range(4)])
    texts = TextBatch(ids, torch.ones_like(ids), torch.from_numpy(wanted))
    clip_pixels = torch.randn(4, 3, clip.image.image_size, clip.image.image_size)
    tower_pixels = torch.randn(4, 3, vision.image.image_size, vision.image.image_size)
    losses = []
    for _ in range(40):
        loss = trainer.loss(clip_pixels, tower_pixels, frames, texts)
        trainer.step(loss.total, 3e-3)
        losses.append(float(loss.total.detach()))
    assert losses[-1] < 0.5 * losses[0]
