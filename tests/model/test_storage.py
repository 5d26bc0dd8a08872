"""8-bit patches: half the memory, and merging exact on what is stored."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.limits import Limits
from memory.store import MemoryStore
from model.config import ConfigError
from model.features import FrameFeatures
from model.history import ArrayHistory
from model.merge import OWN, reference_rows
from model.network import VilampNetwork
from model.select import ArrayCandidates, select_keyframes
from model.storage import num_scalars, pack, unpack
from model.video_model import VideoModel
from tests.support import direct
from tests.support.direct import HIDDEN, NETWORKS, choose_rows, make_merger
from tests.support.tiny import make_checkpoint, make_pictures

INT8 = np.dtype("int8")
QUESTION = "When did a red car come?"


def values_of(patches: np.ndarray, scalars: np.ndarray) -> np.ndarray:
    return unpack(torch.from_numpy(patches), torch.from_numpy(scalars)).numpy()


def with_scale(scales: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros((*scales.shape[:-1], 3), np.float32), scales], axis=-1)


def test_worked_example() -> None:
    patches, scales = pack(np.array([[-1.27, 0.014, 1.0]], np.float32), INT8)
    assert patches.tolist() == [[-127, 1, 100]]
    np.testing.assert_allclose(values_of(patches, with_scale(scales)), [[-1.27, 0.01, 1.0]], rtol=1e-6)


@given(seed=st.integers(0, 1000), size=st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 60_000.0, 1e9]))
def test_rounding_is_at_most_half_a_step(seed: int, size: float) -> None:
    values = (np.random.default_rng(seed).normal(size=(5, 7)) * size).astype(np.float32)
    patches, scales = pack(values, INT8)
    kept = np.clip(values, -65504, 65504)
    stored = values_of(patches, with_scale(scales))
    assert np.abs(patches.astype(int)).max() <= 127
    assert (np.abs(stored - kept) <= 0.5001 * scales).all()
    again, same = pack(stored, INT8)  # what is stored is stored again as it is
    assert again.tolist() == patches.tolist()
    np.testing.assert_allclose(same, scales, rtol=1e-6)


def test_what_is_no_number_stays_none() -> None:
    patches, scales = pack(np.array([[1.0, np.nan], [1.0, 2.0]], np.float32), INT8)
    stored = values_of(patches, with_scale(scales))
    assert np.isnan(stored[0]).all()
    assert np.isfinite(stored[1]).all()


def test_floats_are_stored_as_they_are() -> None:
    values = np.array([[1.0, -70_000.0]], np.float32)
    patches, scales = pack(values, np.dtype("float16"))
    assert (patches.dtype, scales.shape) == (np.float16, (1, 0))
    assert patches.tolist() == [[1.0, -65504.0]]
    assert (num_scalars(INT8), num_scalars(np.dtype("float16"))) == (4, 3)


def stored_history(network: VilampNetwork, num_frames: int, seed: int) -> tuple[ArrayHistory, torch.Tensor]:
    """Frames in 8 bits, and the values (N, M, C') that their bytes stand for."""
    rng, config = np.random.default_rng(seed), network.config
    vision = torch.tensor(rng.normal(size=(num_frames, config.num_patches, config.vision.tower.hidden_size))).float()
    raw = vision if config.live.patch_features == "vision" else network.project_hidden(vision)
    patches, scales = pack(raw.numpy(), INT8)
    scalars = with_scale(scales)
    values = unpack(torch.from_numpy(patches), torch.from_numpy(scalars))
    scalars[..., :3] = make_merger(network).scalars(values).numpy()
    embeddings = rng.normal(size=(num_frames, config.dual_encoder.projection_dim)).astype(np.float32)
    frames = [
        SimpleNamespace(embedding=e, patches=p, scalars=s, summary=v.mean(0))
        for e, p, s, v in zip(embeddings, patches, scalars, values.numpy(), strict=True)
    ]
    return ArrayHistory(frames), values


@given(
    num_frames=st.integers(1, 20),
    num_keyframes=st.integers(0, 5),
    seed=st.integers(0, 1000),
    composer=st.sampled_from(["sig_pooling", "plain"]),
    reference=st.sampled_from(["keyframe", "released"]),
    chunk=st.sampled_from([1, 5000, 1 << 20]),
)
@settings(max_examples=40, deadline=None)
def test_absorbed_is_direct_on_the_rounded_patches(
    num_frames: int, num_keyframes: int, seed: int, composer: str, reference: Any, chunk: int
) -> None:
    network = NETWORKS[composer]
    history, values = stored_history(network, num_frames, seed)
    rows = choose_rows(num_frames, num_keyframes, seed)
    query = np.random.default_rng(seed).normal(size=16 if composer == "sig_pooling" else 32).astype(np.float32)
    merged = make_merger(network, chunk_bytes=chunk).merge(history, rows, query, reference=reference)
    references = reference_rows(rows, [num_frames], reference)
    sources = np.where(references == OWN, np.arange(num_frames), references)
    wanted = direct.merge(network, values.numpy(), sources, query).numpy()[merged.rows]
    np.testing.assert_allclose(merged.tokens.numpy(), wanted, rtol=0, atol=2e-4)
    pooled = network.pool(network.project(values[rows])).numpy()
    np.testing.assert_allclose(merged.keyframes.numpy(), pooled, rtol=0, atol=2e-4)


def test_hidden_features_in_8_bits_are_merged_like_their_values() -> None:
    network = HIDDEN["sig_pooling"]
    history, values = stored_history(network, 9, 0)
    frames = [
        SimpleNamespace(**{**vars(f), "patches": v, "scalars": f.scalars[:, :3]})
        for f, v in zip(history._frames, values.numpy(), strict=True)
    ]
    rows, query = np.array([2, 6]), np.ones(16, np.float32)
    packed = make_merger(network).merge(history, rows, query)
    plain = make_merger(network).merge(ArrayHistory(frames), rows, query)
    assert torch.equal(packed.tokens, plain.tokens)
    assert torch.equal(packed.keyframes, plain.keyframes)


# --- a whole model ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def model(folder: Path) -> VideoModel:
    return VideoModel.load(folder, patch_dtype="int8")


def test_features_are_those_of_the_stored_patches(model: VideoModel, folder: Path) -> None:
    pictures = make_pictures(3)
    halves = VideoModel.load(folder).encode(pictures)
    assert (model.info.patch_dtype, model.info.num_scalars) == ("int8", 4)
    for features, half in zip(model.encode(pictures), halves, strict=True):
        assert (features.patches.dtype, features.scalars.shape) == (INT8, (16, 4))
        values = values_of(features.patches, features.scalars)
        np.testing.assert_allclose(values, half.patches, rtol=0, atol=float(features.scalars[:, 3].max()))
        np.testing.assert_allclose(features.summary, values.mean(0), atol=1e-6)
        scalars = model.merger.scalars(torch.from_numpy(values)[None]).numpy()[0]
        np.testing.assert_allclose(features.scalars[:, :3], scalars, atol=1e-5)
        np.testing.assert_array_equal(features.embedding, half.embedding)


def answer(model: VideoModel, source: Any, embeddings: np.ndarray) -> tuple[list[int], np.ndarray, str]:
    query = model.embed_text(QUESTION)
    keyframes = select_keyframes(ArrayCandidates(embeddings, query.unit), num_keyframes=4)
    context = model.build_context(source, keyframes, query)
    words = "".join(model.stream(QUESTION, context, max_new_tokens=12))
    return keyframes.rows.tolist(), context.merged.numpy(), words


def test_a_memory_gives_back_what_was_encoded(model: VideoModel, tmp_path: Path) -> None:
    features: list[FrameFeatures] = model.encode(make_pictures(14))
    info = model.info
    with MemoryStore(
        tmp_path, embedding_dim=16, limits=Limits(segment_frames=4), patch_shape=(16, info.patch_width),
        patch_dtype=info.patch_dtype, num_scalars=info.num_scalars,
    ) as store:  # fmt: skip
        for second, each in enumerate(features):
            frame_id = store.append("gate", float(second), b"picture")
            assert store.attach(
                frame_id, embedding=each.embedding, patches=each.patches, scalars=each.scalars, summary=each.summary
            )
        window = store.window(["gate"])
        block = window.read(2, 11)
        assert block.patches.dtype == INT8
        np.testing.assert_array_equal(block.patches, np.stack([each.patches for each in features[2:11]]))
        np.testing.assert_array_equal(block.scalars, np.stack([each.scalars for each in features[2:11]]))
        with pytest.raises(ValueError, match="scalars must have shape"):
            store.attach(1, embedding=features[0].embedding, patches=features[0].patches,
                         scalars=features[0].scalars[:, :3], summary=features[0].summary)  # fmt: skip
        streamed = answer(model, window, window.embeddings(np.arange(14)))
    whole = ArrayHistory(features)
    at_once = answer(model, whole, whole.unit_embeddings())
    assert streamed[0] == at_once[0]
    np.testing.assert_allclose(streamed[1], at_once[1], atol=1e-5)
    assert streamed[2] == at_once[2]


def test_a_frame_encoded_again_takes_the_place_of_one_whose_patches_are_gone(model: VideoModel) -> None:
    features = model.encode(make_pictures(6))
    query, history = model.embed_text(QUESTION), ArrayHistory(features)
    keyframes = select_keyframes(ArrayCandidates(history.unit_embeddings(), query.unit), num_keyframes=2)
    whole = model.build_context(history, keyframes, query)
    gone = [int(row) for row in keyframes.rows]
    history.forget(gone)
    again = model.build_context(history, keyframes, query, overrides={row: features[row] for row in gone})
    assert torch.equal(whole.keyframe_tokens, again.keyframe_tokens)
    assert torch.equal(whole.merged, again.merged)


def test_stored_otherwise_they_are_other_features(model: VideoModel, folder: Path) -> None:
    assert model.info.fingerprint != VideoModel.load(folder).info.fingerprint
    with pytest.raises(ConfigError, match="int4"):
        VideoModel.load(folder, patch_dtype="int4")
