"""The batched, differentiable path of training computes the same as the product."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.checkpoint import load_checkpoint
from model.history import ArrayHistory
from model.prompt import prompt_text
from model.select import ArrayCandidates, Keyframes, select_keyframes
from model.training import data
from model.training.answers import AnswerTrainer
from model.training.data import History, Window, pictures_at, things_in_view, window_stop
from model.training.run import learning_rate
from model.training.sequence import background_relative, layout_batch, reference_rows, select_batch
from model.training.store import FeatureStore, Item
from model.training.wording import SMALL_WORDS, reworded
from model.video_model import VideoModel
from model.world import phrases
from model.world.questions import Query, Question, clear_view, with_articles
from model.world.scene import Scene
from tests.support import tiny


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), num_frames=st.integers(1, 40), places=st.integers(1, 12), recent=st.integers(0, 3))
def test_batched_selection_equals_single_selection(seed: int, num_frames: int, places: int, recent: int) -> None:
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
    # the batch also fills free places with masked frames; it must contain the selection
    assert set(walked.rows.tolist()) <= set(np.flatnonzero(taken).tolist())
    assert taken.sum() == min(places, num_frames)


def test_frames_refer_to_the_preceding_keyframe() -> None:
    taken = torch.tensor([[0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)
    assert reference_rows(taken).tolist() == [[0, 1, 1, 1, 4, 4], [0, 1, 2, 3, 4, 5]]


def test_layout_is_in_time_order() -> None:
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


def test_padding_uses_no_positions() -> None:
    taken = torch.tensor([[True, False, False]])
    layout = layout_batch(taken, torch.tensor([[True, True, False]]), 2)
    assert layout.visual_tokens.tolist() == [3]
    assert layout.merged.tolist() == [[-1, 2, -1]]


@pytest.mark.parametrize(("step", "share", "expected"), [(0, 0.0, 1 / 300), (299, 0.0, 1.0), (9999, 1.0, 0.02)])
def test_learning_rate_warms_up_then_decays(step: int, share: float, expected: float) -> None:
    assert learning_rate(1.0, step, share) == pytest.approx(expected)


@pytest.mark.parametrize(("marks", "budget"), [(False, 1000), (True, 1000), (True, 22)])
def test_training_and_product_build_the_same_sequence(tmp_path: Path, marks: bool, budget: int) -> None:
    folder = tiny.make_checkpoint(
        tmp_path / "model", timestamps=True, relevance_marks=marks, patch_features="vision", max_visual_tokens=budget
    )
    checkpoint, model = load_checkpoint(folder), VideoModel.load(folder)
    pictures = tiny.make_pictures(12)
    features = model.encode(pictures)
    history = ArrayHistory(features)
    patches = torch.from_numpy(np.stack([f.patches for f in features]))
    store = FeatureStore(40, tuple(patches.shape[1:]), features[0].embedding.shape[0], torch.device("cpu"))
    question = Question("colour", "what colour was the bag?", "red", Query(kind="bag"))
    store.add(
        History(torch.empty(0), (Window(2, 12, 1000.0, (question,)),), torch.full((12, 2, patches.shape[1]), -1)),
        torch.from_numpy(history.unit_embeddings()),
        patches,
    )
    trainer = AnswerTrainer(checkpoint, store, 1e-3, seed=0)
    item = Item(2, 10, 2, 1000.0, 1.0, question)
    rows, valid = trainer.rows([item])
    taken = torch.zeros(1, 10, dtype=torch.bool)
    taken[0, [1, 4, 5]] = True
    query = model.embed_text(question.text)
    window = ArrayHistory(features[2:])
    scores = window.unit_embeddings() @ query.unit
    batch = trainer.assemble(
        [item], rows, valid, taken, torch.from_numpy(scores)[None], torch.from_numpy(query.raw)[None], [question.text]
    )
    chosen = Keyframes(np.array([1, 4, 5]), ("relevant",) * 3, scores[[1, 4, 5]])
    context = model.build_context(window, chosen, query)
    clocks = [f"00:16:{42 + row:02d}" for row in (1, 4, 5)]  # frame 2 of a history whose clock starts at 00:16:40
    visual, _ = model.visual_block(context, clocks)
    ids = model.tokenizer.encode_prompt(prompt_text(question.text, checkpoint.config.live.system_prompt))
    expected = model.splice(ids, visual)
    if budget == 22:  # 12 keyframe tokens, the newline, 9 for 7 others: both let all of them stand alone
        assert context.num_tokens <= budget
    torch.testing.assert_close(batch.embeds[0, : len(expected)], expected, atol=2e-3, rtol=1e-3)


def test_many_windows_end_with_two_things_in_view() -> None:
    scene = Scene.from_seed(5, duration_s=300.0, density=2.0)
    counts = things_in_view(scene, 300)
    assert [len(clear_view(scene, float(t)) or ()) for t in range(300)] == counts.tolist()
    rng = np.random.default_rng(1)
    stops = np.array([window_stop(rng, counts, 10) for _ in range(1000)])
    assert stops.min() >= 10
    assert stops.max() <= 300
    by_chance = (counts == 2).mean()
    assert 0 < by_chance < 0.3
    assert 0.4 < (counts[stops - 1] == 2).mean() < 0.7


def test_window_ends_anywhere_when_the_view_is_empty() -> None:
    rng = np.random.default_rng(1)
    stops = {window_stop(rng, np.zeros(30, np.int64), 28) for _ in range(100)}
    assert stops == {28, 29, 30}


def test_glimpse_ends_with_the_thing_in_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[Scene, Sequence[float]]] = []

    def noting(scene: Scene, times: Sequence[float], *rest: Any) -> Iterator[np.ndarray]:
        drawn.append((scene, times))
        return pictures_at(scene, times, *rest)

    monkeypatch.setattr(data, "pictures_at", noting)
    monkeypatch.setattr(data, "GLIMPSES", 12)
    history = data.glimpses(np.random.default_rng(2))
    assert len(history.images) == 5 * len(history.windows) >= 60
    assert len({id(scene) for scene, _ in drawn}) >= 3
    numbers = []
    for (scene, times), window, end in zip(drawn, history.windows, range(5, 1000, 5), strict=False):
        assert end - 5 <= window.start < window.stop == end
        assert np.diff(times).tolist() == [1.0] * 4
        here = clear_view(scene, times[-1]) or []
        assert window.questions[0].answer == with_articles(
            " and ".join(f"a {each.colour} {each.kind}" for each in here)
        )
        numbers.append(len(here))
    assert set(numbers) == {1, 2}


def test_glimpses_of_one_scene_do_not_overlap() -> None:
    counts = np.repeat([2, 0, 1], 100)
    for seed in range(20):
        seconds = data.glimpse_seconds(np.random.default_rng(seed), counts)
        assert counts[seconds].tolist() == [2, 2, 2, 1, 1]
        assert len({second // 12 for second in seconds}) == 5
        assert min(seconds) >= 4
    assert data.glimpse_seconds(np.random.default_rng(0), np.array([2, 2, 1, 1, 0])) == []


def test_rephrased_question_keeps_its_meaning() -> None:
    rng = np.random.default_rng(3)
    text = "did the red car come before or after the blue dog?"
    said = [reworded(text, rng) for _ in range(400)]
    assert 0.2 < sum(each == text for each in said) / 400 < 0.4
    assert len(set(said)) > 25
    carries = [word for word in text.split() if word not in SMALL_WORDS]
    assert all([word for word in each.split() if word in carries] == carries for each in said)


def test_evaluation_phrasings_are_not_in_training() -> None:
    """Training drops small words from phrasings; this must not produce an evaluation phrasing."""
    rng = np.random.default_rng(4)
    named = {"thing": "red car", "come": "come", "a": "red car", "b": "blue dog", "at": "at the gate"}
    choices = [each for each in vars(phrases).values() if isinstance(each, dict) and set(each) == {"train", "eval"}]
    assert len(choices) >= 10
    asked = {_words(text.format(**named)) for each in choices for text in each["eval"]}
    taught = {
        _words(reworded(text.format(**named), rng)) for each in choices for text in each["train"] for _ in range(3000)
    }
    assert not asked & taught


def _words(text: str) -> str:
    return text.rstrip("?")
