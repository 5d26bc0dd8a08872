"""Merging in its absorbed and chunked form equals the definition, at many sizes."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.history import ArrayHistory
from model.merge import OWN, reference_rows, runs_of_equal
from model.network import VilampNetwork
from tests.support import direct
from tests.support.direct import HIDDEN, NETWORKS, choose_rows, make_merger, make_network
from tests.support.tiny import make_config


def make_history(
    network: VilampNetwork, num_frames: int, seed: int, dtype: str = "float32", num_scenes: int | None = None
) -> ArrayHistory:
    """Make a history of random features, stored as the model stores them.

    `num_scenes`: number of different frames, repeated in random order (1: a static camera); None: all frames differ.
    """
    rng = np.random.default_rng(seed)
    config = network.config
    different = rng.normal(
        size=(num_frames if num_scenes is None else num_scenes, config.num_patches, config.vision.tower.hidden_size)
    )
    vision = torch.tensor(
        different if num_scenes is None else different[rng.integers(0, num_scenes, num_frames)]
    ).float()
    merger = make_merger(network)
    stored = vision if config.live.patch_features == "vision" else network.project_hidden(vision)
    patches = stored.detach().numpy().astype(dtype)
    scalars = merger.scalars(torch.from_numpy(patches)).numpy()
    embeddings = rng.normal(size=(num_frames, config.dual_encoder.projection_dim)).astype(np.float32)
    return ArrayHistory(
        SimpleNamespace(
            embedding=embeddings[row],
            patches=patches[row],
            scalars=scalars[row],
            summary=patches[row].mean(axis=0, dtype=np.float32),
            vision=vision[row].numpy(),
        )
        for row in range(num_frames)
    )


def expected(network: VilampNetwork, history: ArrayHistory, references: np.ndarray, query: np.ndarray) -> np.ndarray:
    sources = np.where(references == OWN, np.arange(len(references)), references)
    if not len(references):
        return np.empty((0, network.config.language.hidden_size), np.float32)
    patches = np.stack([frame.vision for frame in history._frames])
    return direct.merge(network, patches, sources, query).numpy()


@given(
    num_frames=st.integers(0, 40),
    num_scenes=st.sampled_from([None, 1, 3]),
    num_keyframes=st.integers(0, 8),
    seed=st.integers(0, 1000),
    composer=st.sampled_from(["sig_pooling", "plain"]),
    hidden=st.booleans(),
    reference=st.sampled_from(["keyframe", "released"]),
    chunk=st.sampled_from([1, 5000, 1 << 20]),
    split=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_absorbed_form_equals_the_definition(
    num_frames: int,
    num_scenes: int | None,
    num_keyframes: int,
    seed: int,
    composer: str,
    hidden: bool,
    reference: Any,
    chunk: int,
    split: bool,
) -> None:
    network = (HIDDEN if hidden else NETWORKS)[composer]
    history = make_history(network, num_frames, seed, num_scenes=num_scenes)
    rows = choose_rows(num_frames, num_keyframes, seed)
    sizes = [num_frames // 3, num_frames - num_frames // 3] if split else [num_frames]
    query_dim = 16 if composer == "sig_pooling" else 32
    query = np.random.default_rng(seed).normal(size=query_dim).astype(np.float32)
    merged = make_merger(network, chunk_bytes=chunk).merge(
        history, rows, query, reference=reference, group_sizes=sizes, keep_weights=True
    )
    others = np.setdiff1d(np.arange(num_frames), rows)
    assert merged.rows.tolist() == others.tolist()
    wanted = expected(network, history, reference_rows(rows, sizes, reference), query)[others]
    np.testing.assert_allclose(merged.tokens.numpy(), wanted, rtol=0, atol=2e-4)
    if len(others):
        assert merged.weights is not None
        np.testing.assert_allclose(merged.weights.sum(-1).numpy(), 1, atol=1e-5)
    assert merged.keyframes.shape == (len(rows), network.config.keyframe_tokens, 32)


@given(
    num_frames=st.integers(0, 60),
    num_scenes=st.sampled_from([None, 1, 3]),
    num_keyframes=st.integers(0, 8),
    seed=st.integers(0, 1000),
    hidden=st.booleans(),
    chunk=st.sampled_from([1, 3000, 9000]),
)
@settings(max_examples=40, deadline=None)
def test_chunked_merging_equals_one_chunk(
    num_frames: int, num_scenes: int | None, num_keyframes: int, seed: int, hidden: bool, chunk: int
) -> None:
    network = (HIDDEN if hidden else NETWORKS)["sig_pooling"]
    history = make_history(network, num_frames, seed, num_scenes=num_scenes)
    rows = choose_rows(num_frames, num_keyframes, seed)
    query = np.random.default_rng(seed).normal(size=16).astype(np.float32)
    whole = make_merger(network, chunk_bytes=1 << 30).merge(history, rows, query)
    chunked = make_merger(network, chunk_bytes=chunk).merge(history, rows, query)
    assert chunked.rows.tolist() == whole.rows.tolist()
    torch.testing.assert_close(chunked.tokens, whole.tokens, atol=2e-5, rtol=0)
    torch.testing.assert_close(chunked.keyframes, whole.keyframes, atol=2e-5, rtol=0)


def test_scalars_belong_to_the_patches_as_stored() -> None:
    network = NETWORKS["sig_pooling"]
    history = make_history(network, 12, 3, dtype="float16")
    exact = ArrayHistory(
        SimpleNamespace(**{**vars(frame), "vision": frame.patches.astype(np.float32)}) for frame in history._frames
    )
    rows, query = np.array([2, 7]), np.random.default_rng(3).normal(size=16).astype(np.float32)
    merged = make_merger(network).merge(history, rows, query)
    wanted = expected(network, exact, reference_rows(rows, [12], "keyframe"), query)
    np.testing.assert_allclose(merged.tokens.numpy(), wanted[merged.rows], rtol=0, atol=2e-4)


@pytest.mark.parametrize("network", [*NETWORKS.values(), *HIDDEN.values()])
def test_first_cosine_is_with_the_question(network: VilampNetwork) -> None:
    history = make_history(network, 5, 3)
    history.forget([3])
    rows = np.array([0, 3, 4])
    assert make_merger(network).presence(history, rows, np.zeros(1)) is None  # this network is not trained to point
    pointing = {"scale": 3.0, "bias": -0.5}
    merger = make_merger(network, pointing=pointing)
    width = network.config.dual_encoder.projection_dim if merger._maps else network.config.language.hidden_size
    query = np.random.default_rng(4).normal(size=width).astype(np.float32)
    found = merger.presence(history, rows, query)
    assert found is not None
    asked = torch.from_numpy(query)
    projected = network.project(torch.from_numpy(np.stack([history._frames[row].vision for row in rows])))
    if maps := merger._maps:
        asked, projected = maps.linear_q(asked), maps.linear_iq(projected)
    cosines = torch.nn.functional.cosine_similarity(projected, asked, dim=-1)
    wanted = torch.sigmoid(3 * cosines - 0.5).numpy()
    np.testing.assert_allclose(found[[0, 2]], wanted[[0, 2]], atol=2e-5)
    assert (found[1] == 0).all()
    again = merger.presence(history, np.array([3]), query, {3: history._frames[4]})  # encoded again
    assert again is not None
    np.testing.assert_allclose(again[0], found[2], atol=1e-6)


def test_reference_rows_follow_the_docstring_example() -> None:
    rows = np.array([1, 4])
    assert reference_rows(rows, [6], "keyframe").tolist() == [OWN, 1, 1, 1, 4, 4]
    assert reference_rows(rows, [6], "released").tolist() == [OWN, 0, 0, 0, 1, 1]
    assert reference_rows(rows, [3, 3], "keyframe").tolist() == [OWN, 1, 1, OWN, 4, 4]
    assert reference_rows(rows, [3, 3], "released").tolist() == [OWN, 0, 0, OWN, 3, 3]
    assert reference_rows(rows[:0], [0], "keyframe").tolist() == []


def test_runs_follow_the_docstring_example() -> None:
    assert list(runs_of_equal(np.array([5, 5, 7]))) == [(0, 2, 5), (2, 3, 7)]
    assert list(runs_of_equal(np.array([]))) == []


@pytest.mark.parametrize("network", [NETWORKS["sig_pooling"], HIDDEN["sig_pooling"]], ids=["vision", "hidden"])
def test_frame_without_patches_uses_its_summary(network: VilampNetwork) -> None:
    history, query = make_history(network, 10, 0), np.ones(16, np.float32)
    merger, rows = make_merger(network), np.array([3])
    before = merger.merge(history, rows, query)
    history.forget([5, 6])
    after = merger.merge(history, rows, query)
    assert (before.num_summary_frames, after.num_summary_frames) == (0, 2)
    summaries = torch.tensor(history.summaries(5, 7))
    hidden = summaries if network.config.live.patch_features == "hidden" else network.project_hidden(summaries)
    torch.testing.assert_close(after.tokens[[4, 5]], network.project_out(hidden), atol=1e-5, rtol=0)
    kept = [place for place, row in enumerate(after.rows.tolist()) if row not in (5, 6)]
    assert torch.equal(after.tokens[kept], before.tokens[kept])


def test_keyframe_without_patches_must_be_encoded_again() -> None:
    network = NETWORKS["sig_pooling"]
    history, query, rows = make_history(network, 6, 0), np.ones(16, np.float32), np.array([2])
    whole = make_merger(network).merge(history, rows, query)
    again = history._frames[2]
    history.forget([2])
    with pytest.raises(ValueError, match="row 2"):
        make_merger(network).merge(history, rows, query)
    overridden = make_merger(network).merge(history, rows, query, overrides={2: again})
    assert torch.equal(whole.tokens, overridden.tokens)
    assert torch.equal(whole.keyframes, overridden.keyframes)


def test_released_reference_without_patches_uses_its_summary() -> None:
    network = NETWORKS["sig_pooling"]
    history, query, rows = make_history(network, 6, 0), np.ones(16, np.float32), np.array([2])
    history.forget([0])
    merged = make_merger(network).merge(history, rows, query, reference="released")
    assert merged.num_summary_frames == 1
    assert torch.isfinite(merged.tokens).all()


def test_average_none_and_single_composers() -> None:
    rows, query = np.array([1, 3]), np.ones(16, np.float32)
    for name in ("average_pooling", "none", "single_token"):
        network = make_network(composer=name)
        history = make_history(network, 7, 1)
        merged = make_merger(network, chunk_bytes=1).merge(history, rows, query)
        frames = [history._frames[row] for row in (0, 2, 4, 5, 6)]
        if name == "none":
            assert merged.rows.tolist() == []
            continue
        if name == "average_pooling":
            wanted = network.project(torch.tensor(np.stack([frame.vision for frame in frames]))).mean(1)
        else:
            assert network.composer is not None
            wanted = network.composer(torch.tensor(np.stack([frame.embedding for frame in frames])))
        torch.testing.assert_close(merged.tokens, wanted, atol=1e-5, rtol=0)


def test_empty_history_gives_no_tokens() -> None:
    merged = make_merger(NETWORKS["sig_pooling"]).merge(ArrayHistory(), np.empty(0, np.int64), np.ones(16, np.float32))
    assert merged.tokens.shape == (0, 32)
    assert merged.keyframes.shape == (0, 4, 32)


def test_static_camera_gives_equal_tokens() -> None:
    network = NETWORKS["sig_pooling"]
    frame = make_history(network, 1, 0)._frames[0]
    merged = make_merger(network).merge(ArrayHistory([frame] * 9), np.array([0]), np.ones(16, np.float32))
    torch.testing.assert_close(merged.tokens, merged.tokens[:1].expand(8, -1), atol=1e-6, rtol=0)


def test_merging_works_at_other_network_sizes() -> None:
    base = make_config()
    image = replace(base.vision.image, image_size=30, patch_size=6)  # 25 patches, odd side
    network = make_network(vision=replace(base.vision, image=image))
    history = make_history(network, 5, 0)
    merged = make_merger(network).merge(history, np.array([1]), np.ones(16, np.float32))
    assert merged.keyframes.shape == (1, 9, 32)
    wanted = expected(network, history, reference_rows(np.array([1]), [5], "keyframe"), np.ones(16, np.float32))
    np.testing.assert_allclose(merged.tokens.numpy(), wanted[merged.rows], rtol=0, atol=2e-4)
