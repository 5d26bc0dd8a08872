"""The batched, differentiable path of training computes what the product computes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.select import ArrayCandidates, select_keyframes
from model.training.run import learning_rate
from model.training.sequence import background_relative, layout_batch, reference_rows, select_batch


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), num_frames=st.integers(1, 40), places=st.integers(1, 12), recent=st.integers(0, 3))
def test_batched_selection_takes_what_the_walk_takes(seed: int, num_frames: int, places: int, recent: int) -> None:
    rng = np.random.default_rng(seed)
    embeddings, query = unit(rng, num_frames, 4), unit(rng, 4)  # few dimensions: many redundant frames
    walked = select_keyframes(
        ArrayCandidates(embeddings, query), num_keyframes=places, tau=0.5, recent=recent, fill="none",
        background=embeddings.mean(0, keepdims=True), background_floor=0.1,
    )  # fmt: skip
    vectors, valid = torch.from_numpy(embeddings)[None], torch.ones(1, num_frames, dtype=torch.bool)
    relative = background_relative(vectors, valid, 0.1)
    scores = torch.from_numpy(embeddings @ query)[None]
    taken = select_batch(scores, relative, valid, places, 0.5, recent)[0].numpy()
    # the batch also fills free places (with struck-out frames); what the walk takes must be among what it takes
    assert set(walked.rows.tolist()) <= set(np.flatnonzero(taken).tolist())
    assert taken.sum() == min(places, num_frames)


def test_frames_refer_to_the_keyframe_before_them() -> None:
    taken = torch.tensor([[0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)
    assert reference_rows(taken).tolist() == [[0, 1, 1, 1, 4, 4], [0, 1, 2, 3, 4, 5]]


def test_layout_puts_frames_in_time_order() -> None:
    taken = torch.tensor([[False, True, False, False, True, False]])
    valid = torch.tensor([[True] * 6])
    layout = layout_batch(taken, valid, tokens_per_keyframe=3)
    # slots: frame 0 -> 0, keyframe 1 -> 1..3, frames 2, 3 -> 4, 5, keyframe 4 -> 6..8, frame 5 -> 9
    assert layout.merged.tolist() == [[0, -1, 4, 5, -1, 9]]
    assert layout.keyframes.tolist() == [[1, 4]]
    assert layout.keyframe_slots.tolist() == [[1, 6]]
    assert layout.visual_tokens.tolist() == [10]


def test_frames_of_one_run_share_a_slot() -> None:
    taken = torch.tensor([[False, False, False, True, False, False]])
    runs = torch.tensor([[1, 1, 2, 2, 2, 2]])
    layout = layout_batch(taken, torch.ones(1, 6, dtype=torch.bool), 2, runs)
    assert layout.merged.tolist() == [[0, 0, 1, -1, 4, 4]]
    assert layout.visual_tokens.tolist() == [5]


def test_padding_takes_no_place() -> None:
    taken = torch.tensor([[True, False, False]])
    layout = layout_batch(taken, torch.tensor([[True, True, False]]), 2)
    assert layout.visual_tokens.tolist() == [3]
    assert layout.merged.tolist() == [[-1, 2, -1]]


@pytest.mark.parametrize(("step", "share", "expected"), [(0, 0.0, 1 / 300), (299, 0.0, 1.0), (9999, 1.0, 0.02)])
def test_learning_rate_warms_up_and_falls_with_time(step: int, share: float, expected: float) -> None:
    assert learning_rate(1.0, step, share) == pytest.approx(expected)
