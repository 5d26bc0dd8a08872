"""Results agree with recordings of the published implementation on tiny checkpoints.

The recordings are not part of the project: their folder comes from PARITY_DIR (default: ../shared/parity beside the
project). Tolerances are those of its README, for float32.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.checkpoint import load_checkpoint
from model.config import ConfigError
from model.features import FrameFeatures
from model.generate import Decoding, choose
from model.history import ArrayHistory
from model.merge import OWN, reference_rows
from model.network import SigPooling, pool_patches
from model.places import fill_gaps
from model.preprocess import centre_crop, published_frame_indices, relevance_pixels, squash, vision_pixels
from model.prompt import prompt_text
from model.select import ArrayCandidates, select_keyframes
from model.tokens import IMAGE_TOKEN_ID
from model.video_model import VideoModel
from tests.support.direct import sig_pooling

PARITY = Path(os.environ.get("PARITY_DIR", Path(__file__).parents[2] / ".." / "shared" / "parity")).resolve()
FOUND = (PARITY / "goldens" / "runs.json").is_file()
if not FOUND and "PARITY_DIR" in os.environ:  # a mistyped folder must not skip the tests
    raise FileNotFoundError(f"PARITY_DIR: no recordings in {PARITY}")
pytestmark = pytest.mark.skipif(not FOUND, reason=f"no recordings in {PARITY} (set PARITY_DIR)")


def read_json(name: str) -> Any:
    path = PARITY / name
    return json.loads(path.read_text()) if path.is_file() else []


def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(PARITY / name) as file:
        return dict(file)


def refused(run: dict[str, Any]) -> bool:
    """Return whether a run is an ablation that this program refuses."""
    return not run["overwrite"].get("activate_frame_selector", True)


RUNS = read_json("goldens/runs.json")
ANSWERED = [run for run in RUNS if not refused(run)]
INPUTS = read_json("inputs/inputs.json")
CLIP_TEXT = {"mc": "question", "open": "open_question", "long": "long_query"}


@dataclass
class Recorded:
    frames: list[np.ndarray]
    model: VideoModel
    features: list[FrameFeatures]


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    """The frames and their features. All recorded checkpoints share both towers and the projector."""
    torch.set_num_threads(1)
    frames = list(arrays("inputs/frames.npz")["frames"])
    model = VideoModel.load(PARITY / "ckpt_sig", patch_dtype="float32")
    features = [feature for start in range(0, len(frames), 8) for feature in model.encode(frames[start : start + 8])]
    return Recorded(frames, model, features)


def close(ours: Any, theirs: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(np.asarray(ours, np.float64), theirs.astype(np.float64), rtol=0, atol=tolerance)


# --- units -----------------------------------------------------------------------------------------------------------


def test_tokenizers_agree(recorded: Recorded) -> None:
    for case in read_json("units/tokenizer.json"):
        assert recorded.model.tokenizer.encode_prompt(case["text"]) == case["qwen"]
        assert recorded.model.clip_tokenizer.encode(case["text"])[0] == case["clip"]


def test_frame_sampling_agrees() -> None:
    for case in read_json("units/frame_sampling.json"):
        ours = published_frame_indices(case["total_frames"], case["fps"], case["max_frame_num"])
        if "error" in case:  # under 1 frame/s the published code divides by zero; here every frame is kept
            assert case["fps"] < 1
            assert len(ours) == case["max_frame_num"]
        else:
            assert ours.tolist() == case["indices"], case


def test_gap_filling_agrees() -> None:
    recording = arrays("units/distribute.npz")
    for number, num_keyframes in enumerate(recording["K"].tolist()):
        part = slice(recording["offsets"][number], recording["offsets"][number + 1])
        before, after = recording["before"][part], recording["after"][part]
        ours = before.copy()
        ours[fill_gaps(np.flatnonzero(before), len(before), num_keyframes)] = 1
        assert ours.tolist() == after.tolist(), number


class ScoreCandidates:
    """Candidates of which only the scores are known."""

    def __init__(self, scores: np.ndarray) -> None:
        self._scores, self.num_frames = scores, len(scores)
        self._order = np.argsort(-scores, kind="stable")

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        return self._order[:k], self._scores[self._order[:k]]

    def scores(self, rows: np.ndarray) -> np.ndarray:
        return self._scores[rows]

    def embeddings(self, rows: np.ndarray) -> np.ndarray:
        raise AssertionError("there are none")


class MatrixRedundancy:
    """Candidates whose similarities come from a given matrix."""

    def __init__(self, matrix: np.ndarray) -> None:
        self._matrix = matrix
        self._taken: list[int] = []
        self._rows = np.empty(0, np.int64)

    def open(self, rows: np.ndarray) -> np.ndarray:
        self._rows = rows
        return self._matrix[np.ix_(self._taken, rows)].max(axis=0, initial=-np.inf)

    def take(self, position: int) -> np.ndarray:
        self._taken.append(int(self._rows[position]))
        return self._matrix[self._taken[-1], self._rows]


def test_selection_agrees_on_unit_cases() -> None:
    recording = arrays("units/selection.npz")
    for case in read_json("units/selection.json"):
        prefix = f"c{case['case']:03d}_"
        if prefix + "f2f" in recording:
            f2f = recording[prefix + "f2f"].copy()
        else:
            pick = recording[prefix + "c"]
            f2f = recording[prefix + "S"].astype(np.float32)[pick][:, pick]
        if case["diag"] is not None:
            np.fill_diagonal(f2f, case["diag"])
        scores = recording[prefix + "f2t"]
        for fill, key in (("none", "before"), ("gaps", "after")):
            keyframes = select_keyframes(
                ScoreCandidates(scores),
                num_keyframes=case["K"],
                tau=case["f2f_thrd"],
                floor=case["f2t_thrd"],
                fill=fill,
                redundancy=MatrixRedundancy(f2f),
            )
            assert keyframes.rows.tolist() == np.flatnonzero(recording[prefix + key]).tolist(), (case, key)


def test_pooling_agrees_on_unit_cases() -> None:
    recording = arrays("units/pool2d.npz")
    for case in read_json("units/pool2d.json"):
        given = torch.tensor(recording[case["key"].split("_")[0] + "_in"].astype(np.float32))
        ours = pool_patches(given, case["mode"], case["stride"])
        assert ours.shape[1] == case["out_tokens"]
        close(ours, recording[case["key"]], 2e-5)


def test_sig_pooling_agrees_on_unit_cases() -> None:
    recording = arrays("units/sigpooling.npz")
    for case in read_json("units/sigpooling.json"):
        prefix = f"c{case['case']:02d}_"
        given = {
            key.removeprefix(prefix): torch.tensor(value.astype(np.float32))
            for key, value in recording.items()
            if key.startswith(prefix)
        }
        maps = SigPooling(case["query_dim"], case["dim"], case["tau"])
        maps.load_state_dict(
            {
                f"linear_{name}.{kind}": given[f"linear_{name}_{kind[0]}"]
                for name in ("iq", "ik", "q", "k")
                for kind in ("weight", "bias")
            }
            | {"tau": torch.tensor(case["tau"])}
        )
        with torch.inference_mode():
            tokens, weights = sig_pooling(maps, given["img"], given["key"], given["query"])
        tolerance = 2e-4 if case["tau"] < 0.07 else 2e-5
        close(tokens, recording[prefix + "out"], tolerance)
        close(perplexity(weights) / 10, recording[prefix + "ppl"] / 10, 10 * tolerance)


def perplexity(weights: torch.Tensor) -> torch.Tensor:
    return torch.exp(torch.special.entr(weights).sum(-1))


# --- stages ----------------------------------------------------------------------------------------------------------


def test_preprocessing_agrees(recorded: Recorded) -> None:
    golden = arrays("goldens/preprocess.npz")
    config, full = recorded.model.config, int(golden["full_frame"])
    vision = vision_pixels(recorded.frames, config.vision.image)
    relevance = relevance_pixels(recorded.frames, config.dual_encoder.image, whole_frame=False)
    close(vision[:, :, 5::24, 7::24], golden["siglip_strided"], 1e-5)
    close(relevance[:, :, 3::16, 5::16], golden["clip_strided"], 1e-5)
    assert (squash(recorded.frames[full], config.vision.image.image_size) == golden["siglip_full_u8"]).all()
    assert (centre_crop(recorded.frames[full], config.dual_encoder.image.image_size) == golden["clip_full_u8"]).all()
    for pixels, name in ((vision, "siglip"), (relevance, "clip")):
        np.testing.assert_allclose(pixels.sum((2, 3), dtype=np.float64), golden[f"{name}_sum"], rtol=1e-6, atol=0.2)
        squares = (pixels.astype(np.float64) ** 2).sum((2, 3))
        np.testing.assert_allclose(squares, golden[f"{name}_sumsq"], rtol=1e-5)


def test_relevance_agrees(recorded: Recorded) -> None:
    golden = arrays("goldens/clip.npz")
    history = ArrayHistory(recorded.features)
    unit = history.unit_embeddings()
    close(np.stack([feature.embedding for feature in recorded.features]), golden["image_embeds"], 1e-4)
    close(unit @ unit.T, golden["f2f"], 1e-5)
    for name, key in CLIP_TEXT.items():
        text = recorded.model.embed_text(INPUTS[key])
        assert recorded.model.clip_tokenizer.encode(INPUTS[key])[0] == golden[f"ids_{name}"].tolist()
        assert text.truncated == (name == "long")
        close(text.raw[None], golden[f"text_embeds_{name}"], 1e-4)
        close(unit @ text.unit, golden[f"f2t_{name}"], 1e-5)


@torch.inference_mode()
def test_vision_features_agree(recorded: Recorded) -> None:
    golden = arrays("goldens/vision.npz")
    network, full, picked = recorded.model.network, int(golden["full_frame"]), golden["patch_idx"]
    patches = torch.tensor(np.stack([feature.patches for feature in recorded.features]))
    projected = network.project(patches)
    close(patches[full], golden["tower_full"], 1e-4)
    close(patches[:, picked], golden["tower_at_patches"], 1e-4)
    close(patches.mean(1), golden["tower_mean"], 1e-4)
    close(projected[full], golden["projected_full"], 1e-4)
    close(projected[:, picked], golden["projected_at_patches"], 1e-4)
    close(projected.mean(1), golden["projected_mean"], 1e-4)
    for mode in ("bilinear", "average", "max"):
        close(pool_patches(projected[full][None], mode, 2)[0], golden[f"pooled_{mode}"], 1e-4)


def test_selection_agrees_on_a_grid_of_settings(recorded: Recorded) -> None:
    golden = arrays("goldens/selection_grid.npz")
    unit = ArrayHistory(recorded.features).unit_embeddings()
    questions = [recorded.model.embed_text(INPUTS[CLIP_TEXT[name]]) for name in ("mc", "open")]
    candidates = [ArrayCandidates(unit, question.unit) for question in questions]
    for number, query in enumerate(golden["query"].tolist()):
        for fill, key in (("none", "before"), ("gaps", "after")):
            keyframes = select_keyframes(
                candidates[query],
                num_keyframes=int(golden["K"][number]),
                tau=float(golden["f2f_thrd"][number]),
                floor=float(golden["f2t_thrd"][number]),
                fill=fill,
            )
            assert keyframes.rows.tolist() == np.flatnonzero(golden[key][number]).tolist(), (number, key)


# --- whole runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [run for run in RUNS if refused(run)], ids=lambda run: run["name"])
def test_ablations_are_refused_by_name(run: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=run["overwrite"]["composer_type"]):
        VideoModel.load(PARITY / f"ckpt_{run['ckpt']}", overwrite=run["overwrite"])


def load_run(run: dict[str, Any]) -> VideoModel:
    composer = run["overwrite"].get("composer_type", "")
    folder = PARITY / f"ckpt_{run['ckpt']}"
    checkpoint = load_checkpoint(folder, overwrite=run["overwrite"])
    for name, value in run["param"].items():
        assert name == "model.composer_projector.tau", composer
        assert isinstance(checkpoint.network.composer, SigPooling)
        checkpoint.network.composer.tau.data.fill_(value)
    reference = "released" if run["variant"] == "reference" else "keyframe"
    return VideoModel(checkpoint, patch_dtype="float32", reference=reference)


@pytest.mark.parametrize("run", ANSWERED, ids=lambda run: run["name"])
def test_whole_runs_agree(run: dict[str, Any], recorded: Recorded) -> None:
    golden = arrays(f"goldens/runs/{run['name']}.npz")
    model = load_run(run)
    sharp = run["param"].get("model.composer_projector.tau", 1.0) < 0.07
    history = ArrayHistory(recorded.features[: run["n"]])
    query = model.embed_text(INPUTS[CLIP_TEXT[run["prompt"]]])
    candidates = ArrayCandidates(history.unit_embeddings(), query.unit)
    wanted = model.info.defaults
    for fill, key in (("none", "selected_before_distribute"), ("gaps", "selected")):
        keyframes = select_keyframes(
            candidates, num_keyframes=wanted.num_keyframes, tau=wanted.tau, floor=wanted.floor, fill=fill
        )
        assert keyframes.rows.tolist() == np.flatnonzero(golden[key]).tolist()
    check_merging(model, history, keyframes.rows, query.merge_query, golden, 1e-3 if sharp else 1e-4)
    context = model.build_context(history, keyframes, query, max_visual_tokens=1 << 30)
    visual, slots = model.visual_block(context)
    check_layout(context, slots, golden)
    ids = model.tokenizer.encode_prompt(prompt_text(INPUTS["query"][run["prompt"]], model.config.live.system_prompt))
    assert ids == golden["input_ids"].tolist()
    assert ids.count(IMAGE_TOKEN_ID) == 1
    embeddings = model.splice(ids, visual, cut_to=model.config.max_sequence_tokens)
    assert len(embeddings) == run["seq_len"]
    check_embeddings(embeddings, golden, 1e-3 if sharp else 1e-4)
    check_language(model, embeddings, golden)


def check_merging(
    model: VideoModel,
    history: ArrayHistory,
    rows: np.ndarray,
    query: np.ndarray,
    golden: dict[str, np.ndarray],
    tolerance: float,
) -> None:
    if "composed" not in golden:
        return
    reference = model.info.defaults.reference
    merged = model.merger.merge(history, rows, query, reference=reference, keep_weights=True, merge_keyframes=True)
    close(merged.tokens, golden["composed"], tolerance)
    if "key_source_frame" not in golden:
        return
    source = reference_rows(rows, [history.num_frames], reference)
    assert np.where(source == OWN, np.arange(len(source)), source).tolist() == golden["key_source_frame"].tolist()
    assert merged.weights is not None
    close(merged.weights[golden["sig_mask_frames"]], golden["sig_mask"], tolerance)
    np.testing.assert_allclose(perplexity(merged.weights), golden["sig_mask_perplexity"], rtol=10 * tolerance)


def check_layout(context: Any, slots: Any, golden: dict[str, np.ndarray]) -> None:
    """Return the origin of each token: 0 merged frame, 1 keyframe patch, 2 newline."""
    if "visual_kind" not in golden:
        return
    kinds, frames = [], []
    for slot in slots:
        kind = {"merged": 0, "keyframe": 1, "newline": 2}[slot.role]
        rows = {"merged": context.merged_rows, "keyframe": context.keyframes.rows}.get(slot.role)
        kinds += [kind] * slot.num_tokens
        frames += [-1 if rows is None else int(rows[slot.index])] * slot.num_tokens
    assert kinds == golden["visual_kind"].tolist()
    known = golden["visual_frame"] >= 0
    assert np.array(frames)[known].tolist() == golden["visual_frame"][known].tolist()


def check_embeddings(embeddings: torch.Tensor, golden: dict[str, np.ndarray], tolerance: float) -> None:
    if "inputs_embeds" in golden:
        close(embeddings, golden["inputs_embeds"], tolerance)
    else:
        close(embeddings[golden["embeds_rows"]], golden["embeds_at_rows"], tolerance)
        close(embeddings.sum(-1), golden["embeds_rowsum"], 10 * tolerance)


@torch.inference_mode()
def check_language(model: VideoModel, embeddings: torch.Tensor, golden: dict[str, np.ndarray]) -> None:
    language = model.network.language_model
    hidden = language.model(inputs_embeds=embeddings[None], output_hidden_states=True).hidden_states
    close(torch.stack([state[0, -1] for state in hidden]), golden["hidden_last"], 2e-4)
    logits = language.lm_head(hidden[-1][0])
    close(logits[golden["logits_rows"]], golden["logits"], 2e-4)
    if "logits_logsumexp" in golden:
        close(logits.logsumexp(-1), golden["logits_logsumexp"], 2e-4)
    if "generated_ids" not in golden:
        return
    decoding = Decoding(language)
    step = decoding.prefill(embeddings)
    close(step, golden["logits"][-1], 2e-4)
    for token, margin in zip(golden["generated_ids"].tolist(), golden["generated_margin"].tolist(), strict=True):
        if margin < 1e-3:  # two tokens are equally likely, so the texts may differ from here
            break
        assert choose(step, 0.0, torch.Generator()) == token
        if token in model.tokenizer.stop_ids:
            break
        step = decoding.step(token)
