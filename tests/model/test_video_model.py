"""The video model from pictures and a question to an answer, with a tiny checkpoint."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.checkpoint import load_checkpoint
from model.config import ConfigError
from model.features import VisualContext, best_keyframes, mean_of_runs
from model.generate import Decoding, choose, generate
from model.history import ArrayHistory
from model.select import ArrayCandidates, Keyframes, select_keyframes
from model.video_model import PromptTooLongError, VideoModel
from tests.support.tiny import make_checkpoint, make_pictures

QUESTION = "When did a red car come?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "tiny-one")


@pytest.fixture(scope="module")
def model(folder: Path) -> VideoModel:
    return VideoModel.load(folder)


@pytest.fixture(scope="module")
def history(model: VideoModel) -> ArrayHistory:
    return ArrayHistory(model.encode(make_pictures(40)))


def look(model: VideoModel, history: ArrayHistory, **options: Any) -> VisualContext:
    query = model.embed_text(QUESTION)
    embeddings = history.unit_embeddings() if history.num_frames else np.empty((0, 16))
    candidates = ArrayCandidates(embeddings, query.unit)
    return model.build_context(history, select_keyframes(candidates, num_keyframes=4), query, **options)


def answer(model: VideoModel, context: VisualContext, **options: Any) -> str:
    return "".join(model.stream(QUESTION, context, **{"max_new_tokens": 12, **options}))


def test_info_describes_the_checkpoint(model: VideoModel) -> None:
    info = model.info
    assert (info.name, info.patches_per_frame, info.patch_width, info.embedding_dim) == ("tiny-one", 16, 16, 16)
    assert (info.keyframe_tokens, info.context_tokens, info.max_visual_tokens) == (4, 4096, 3072)
    assert (info.defaults.num_keyframes, info.defaults.tau, info.defaults.floor) == (4, 0.85, -1.0)


@pytest.mark.parametrize("patch_features", ["vision", "hidden"])
def test_features_do_not_depend_on_the_batch(tmp_path: Path, patch_features: str) -> None:
    model = VideoModel.load(make_checkpoint(tmp_path, patch_features=patch_features))
    pictures = [*make_pictures(3), make_pictures(1, height=50, width=20)[0]]
    together = model.encode(pictures)
    for picture, features in zip(pictures, together, strict=True):
        alone = model.encode([picture])[0]
        np.testing.assert_allclose(features.embedding, alone.embedding, atol=1e-5)
        np.testing.assert_allclose(features.patches, alone.patches, atol=2e-3)
        np.testing.assert_allclose(features.scalars, alone.scalars, atol=2e-3)
        assert (features.patches.dtype, features.scalars.dtype) == (np.float16, np.float32)
        assert features.patches.shape == (16, model.info.patch_width)
        assert features.scalars.shape == (16, 3)
        np.testing.assert_allclose(features.summary, features.patches.mean(0, dtype=np.float32), atol=1e-6)
    assert model.encode([]) == []


def test_wrong_picture_arrays_are_refused(model: VideoModel) -> None:
    with pytest.raises(ValueError, match="uint8"):
        model.encode([np.zeros((4, 4, 3))])
    with pytest.raises(ValueError, match="uint8"):
        model.encode([np.zeros((0, 4, 3), np.uint8)])


def test_encoder_sees_the_whole_frame_or_its_centre(folder: Path) -> None:
    wide = np.zeros((28, 84, 3), np.uint8)
    marked = wide.copy()
    marked[:, :20] = 255  # outside the centre
    published = VideoModel.load(folder)
    first, second = published.encode([wide, marked])
    np.testing.assert_allclose(
        first.embedding, second.embedding, rtol=0, atol=1e-5
    )  # rounding depends on the number of threads
    assert not np.array_equal(first.patches, second.patches)
    whole = VideoModel.load(folder, overwrite={"vilamp_live": {"whole_frame": True}})
    first, second = whole.encode([wide, marked])
    assert np.abs(first.embedding - second.embedding).max() > 1e-3
    assert whole.info.fingerprint != published.info.fingerprint


def test_long_question_is_cut_with_a_note(model: VideoModel) -> None:
    assert not model.embed_text(QUESTION).truncated
    long = model.embed_text("red car " * 100)
    assert long.truncated
    assert np.linalg.norm(long.unit) == pytest.approx(1, abs=1e-5)


def test_answers_repeat_and_depend_on_the_pictures(model: VideoModel, history: ArrayHistory) -> None:
    once = answer(model, look(model, history))
    assert once == answer(model, look(model, history))
    other = ArrayHistory(model.encode(make_pictures(40, seed=9)))
    assert once != answer(model, look(model, other))


def test_frames_encoded_one_by_one_give_the_same_answer_as_a_whole_video(model: VideoModel) -> None:
    pictures = make_pictures(20)
    whole, growing = ArrayHistory(model.encode(pictures)), ArrayHistory()
    for picture in pictures:
        growing.extend(model.encode([picture]))
    first, second = look(model, whole), look(model, growing)
    assert first.keyframes.rows.tolist() == second.keyframes.rows.tolist()
    torch.testing.assert_close(model.visual_block(first)[0], model.visual_block(second)[0], atol=1e-2, rtol=0)
    assert answer(model, first) == answer(model, second)


def test_answer_ends_at_its_token_limit_and_when_closed(model: VideoModel, history: ArrayHistory) -> None:
    context = look(model, history)
    pieces = list(model.stream(QUESTION, context, max_new_tokens=5))
    assert 1 <= len(pieces) <= 6
    assert list(model.stream(QUESTION, context, max_new_tokens=0)) == []
    stream = model.stream(QUESTION, context, max_new_tokens=50)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert list(stream) == []
    assert not torch.is_inference_mode_enabled()


def test_stop_token_ends_an_answer(folder: Path, history: ArrayHistory) -> None:
    checkpoint = load_checkpoint(folder)
    model = VideoModel(checkpoint)
    context = look(model, history)
    original = model.tokenizer.stop_ids
    embeddings, _ = model._prompt(QUESTION, context, None, 12)
    said = list(generate(model.reading(), embeddings, stop_ids=(), max_new_tokens=6))
    checkpoint.tokenizer.stop_ids = original | {said[3]}
    assert len(list(model.stream(QUESTION, context, max_new_tokens=12))) <= said.index(said[3]) + 1


def test_seed_repeats_a_sampled_answer(model: VideoModel, history: ArrayHistory) -> None:
    context = look(model, history)
    drawn = {answer(model, context, temperature=5.0, seed=seed) for seed in range(3)}
    assert len(drawn) > 1
    assert answer(model, context, temperature=5.0, seed=1) == answer(model, context, temperature=5.0, seed=1)
    assert answer(model, context, temperature=1e-4, seed=1) == answer(model, context)
    answer(model, context, temperature=1.0)


def test_tiny_temperature_equals_zero() -> None:
    logits = torch.tensor([-80.0, 90.0, 89.0])
    for temperature in (0.0, 1e-300, 1e-20, 1e-4, 0.01):
        assert choose(logits, temperature, torch.Generator()) == 1
    drawn = {choose(logits, 2.0, torch.Generator().manual_seed(seed)) for seed in range(30)}
    assert drawn == {1, 2}


def test_decoding_with_a_cache_equals_one_pass_over_the_sequence(model: VideoModel, history: ArrayHistory) -> None:
    embeddings, _ = model._prompt(QUESTION, look(model, history), None, 12)
    tokens = [3, 200, 41]
    decoding = Decoding(model.network.language_model)
    steps = [decoding.prefill(embeddings), *(decoding.step(token) for token in tokens)]
    with torch.inference_mode():
        whole = torch.cat([embeddings, model.network.embed_tokens(torch.tensor(tokens))])
        logits = model.network.language_model(inputs_embeds=whole[None]).logits[0, -4:]
    torch.testing.assert_close(torch.stack(steps), logits, atol=1e-4, rtol=0)


def test_pictures_are_read_once_for_several_questions(model: VideoModel, history: ArrayHistory) -> None:
    context = look(model, history)
    reading = model.reading()
    for question in (QUESTION, "Is there a dog?", QUESTION, "Is there a dog? Yes?"):
        embeddings, _ = model._prompt(question, context, None, 12)
        again, fresh = reading.prefill(embeddings), model.reading().prefill(embeddings)
        torch.testing.assert_close(again, fresh, atol=1e-4, rtol=0)
        torch.testing.assert_close(reading.step(3, 7), _after(model, embeddings, 3, 7), atol=1e-4, rtol=0)
        said = "".join(model.stream(question, context, max_new_tokens=12, reading=reading))
        assert said == "".join(model.stream(question, context, max_new_tokens=12))


def test_frames_of_an_earlier_question_are_not_read_again(model: VideoModel, history: ArrayHistory) -> None:
    lengths = []

    def note(module: torch.nn.Module, args: object, kwargs: dict[str, Any]) -> None:
        lengths.append(kwargs["inputs_embeds"].shape[1])

    context, reading = look(model, history), model.reading()
    hook = model.network.language_model.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        for question in (QUESTION, "Is there a dog?"):
            reading.prefill(model._prompt(question, context, None, 12)[0])
    finally:
        hook.remove()
    assert lengths[0] > context.num_tokens > lengths[1]


def _after(model: VideoModel, embeddings: torch.Tensor, *tokens: int) -> torch.Tensor:
    fresh = model.reading()
    fresh.prefill(embeddings)
    return fresh.step(*tokens)


def test_lower_case_checkpoint_gets_the_question_in_lower_case(folder: Path, history: ArrayHistory) -> None:
    live = {"lower_case": True, "spelling": {"color": "colour"}}
    model = VideoModel.load(folder, overwrite={"vilamp_live": live})
    context = look(model, history)

    def said(question: str) -> str:
        return "".join(model.stream(question, context, max_new_tokens=12))

    np.testing.assert_array_equal(
        model.embed_text("What COLOR was the Car?").raw, model.embed_text("what colour was the car?").raw
    )
    assert said("What Color was the car?") == said("what colour was the car?")
    assert said("What colorful car?") == said("what colorful car?") != said("what colour car?")
    with pytest.raises(ConfigError, match="spelling"):
        VideoModel.load(folder, overwrite={"vilamp_live": {"spelling": {"color": 1}}})


def test_built_in_model_reads_capitals() -> None:
    """Questions begin with a capital; an earlier model misread them and answered "left" to yes or no."""
    model = VideoModel.load(Path(__file__).parents[2] / "model" / "builtin")
    assert model._as_read("Did you see a Dog?") == "did you see a dog?"
    assert model._as_read("What COLOR was the bike?") == "what colour was the bicycle?"


def test_timestamps_precede_their_keyframes(model: VideoModel, history: ArrayHistory) -> None:
    context = look(model, history)
    clocks = [f"12:00:0{place}" for place in range(4)]
    block, slots = model.visual_block(context, clocks)
    roles = [slot.role for slot in slots]
    assert [roles[place - 1] for place, role in enumerate(roles) if role == "keyframe"] == ["timestamp"] * 4
    assert len(block) == sum(slot.num_tokens for slot in slots) > context.num_tokens
    assert len(model.visual_block(context)[0]) == context.num_tokens == 4 * 4 + 36 + 1
    answer(model, context, timestamps=clocks)
    with pytest.raises(ValueError, match="1 timestamps for 4 keyframes"):
        answer(model, context, timestamps=["12:00:00"])


def test_small_token_budget_is_kept_by_sharing_tokens(model: VideoModel, history: ArrayHistory) -> None:
    context = look(model, history, max_visual_tokens=30)
    assert context.num_tokens == len(model.visual_block(context)[0]) == 30
    assert context.num_shared_tokens == int((np.bincount(context.runs) > 1).sum()) > 0
    assert look(model, history).num_shared_tokens == 0


def test_tiny_token_budget_keeps_the_best_keyframes(model: VideoModel, history: ArrayHistory) -> None:
    context = look(model, history, max_visual_tokens=14)
    assert len(context.keyframes.rows) == 3
    keyframes = Keyframes(
        np.array([1, 4, 6, 9]),
        ("filling", "relevant", "relevant", "recent"),
        np.array([0.9, 0.2, 0.3, 0.1], np.float32),
    )
    best = best_keyframes(keyframes, 2)
    assert best.rows.tolist() == [6, 9]
    assert best.kinds == ("relevant", "recent")
    assert best_keyframes(keyframes, -1).rows.tolist() == []


def test_question_and_answer_always_fit(folder: Path) -> None:
    model = VideoModel.load(folder, overwrite={"tokenizer_model_max_length": 220})
    history = ArrayHistory(model.encode(make_pictures(160)))
    context = look(model, history)
    assert context.num_tokens == 165
    embeddings, room = model._prompt(QUESTION, context, ["12:34:56"] * 4, 50)
    assert len(embeddings) + 50 <= 220
    assert room == 220 - len(embeddings)
    ids = model.tokenizer.encode(f"\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n")
    torch.testing.assert_close(embeddings[-len(ids) :], model.network.embed_tokens(torch.tensor(ids)))
    with pytest.raises(PromptTooLongError, match="more than the 220"):
        next(iter(model.stream("why " * 200, context)))


def test_frames_are_not_joined_across_keyframes_or_cameras(model: VideoModel, history: ArrayHistory) -> None:
    context = look(model, history, group_sizes=(25, 15))
    joined = context.merged_rows[context.may_join]
    assert not set(joined.tolist()) & {0, 25, *(context.keyframes.rows + 1).tolist()}
    assert len(joined) == 36 - len({0, 25, *(context.keyframes.rows + 1).tolist()} & set(context.merged_rows.tolist()))


def test_joined_frames_are_averaged() -> None:
    tokens = torch.tensor([[1.0], [3.0], [10.0]])
    assert mean_of_runs(tokens, np.array([0, 0, 1])).tolist() == [[2.0], [10.0]]
    assert mean_of_runs(tokens, np.arange(3)) is tokens


def test_frames_without_patches_are_counted(model: VideoModel) -> None:
    history = ArrayHistory(model.encode(make_pictures(12)))
    context = look(model, history)
    others = context.merged_rows[:3].tolist()
    history.forget(others)
    assert look(model, history).num_summary_frames == 3
    lost = [int(row) for row in context.keyframes.rows]
    fresh = {row: features for row, features in enumerate(model.encode(make_pictures(12))) if row in lost}
    history.forget(lost)
    assert answer(model, look(model, history, overrides=fresh))


def test_question_without_frames_is_answered(model: VideoModel) -> None:
    context = look(model, ArrayHistory())
    assert context.num_tokens == 1
    answer(model, context)


@pytest.mark.parametrize("composer", ["plain", "single_token", "average_pooling", "none"])
def test_every_composer_answers(tmp_path: Path, composer: str) -> None:
    model = VideoModel.load(make_checkpoint(tmp_path, composer=composer, max_frame_num=4))
    context = look(model, ArrayHistory(model.encode(make_pictures(9))))
    assert context.num_tokens == 17 + (0 if composer == "none" else 5)
    answer(model, context)


def test_constant_encoder_fails_the_self_test(folder: Path) -> None:
    model = VideoModel.load(folder)
    model.self_test()
    model.network.dual_encoder.visual_projection.weight.data.zero_()
    with pytest.raises(RuntimeError, match="same embedding"):
        model.self_test()
    model.network.dual_encoder.visual_projection.weight.data.fill_(torch.nan)
    with pytest.raises(RuntimeError, match="not finite"):
        model.self_test()


def test_fingerprint_depends_on_the_encoder_only(folder: Path, tmp_path: Path) -> None:
    first = VideoModel.load(folder).info.fingerprint
    assert first == VideoModel.load(folder).info.fingerprint
    assert first != VideoModel.load(make_checkpoint(tmp_path, seed=1)).info.fingerprint
    assert first == VideoModel.load(folder, overwrite={"max_frame_num": 2}).info.fingerprint


def test_model_runs_in_half_precision(folder: Path) -> None:
    model = VideoModel.load(folder, dtype="bfloat16", num_threads=1)
    assert answer(model, look(model, ArrayHistory(model.encode(make_pictures(6)))))


def test_wrong_load_options_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="dtype 'int3'"):
        VideoModel.load(folder, dtype="int3")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no usable CUDA"):
            VideoModel.load(folder, device="cuda:0")


def test_frames_are_encoded_while_an_answer_is_written(model: VideoModel, history: ArrayHistory) -> None:
    pictures = make_pictures(4)
    alone = [features.patches for features in model.encode(pictures)]
    said = answer(model, look(model, history))
    heard: list[str] = []
    talking = threading.Thread(target=lambda: heard.extend(answer(model, look(model, history)) for _ in range(5)))
    talking.start()
    seen = [model.encode(pictures) for _ in range(10)]
    talking.join()
    assert heard == [said] * 5
    for batch in seen:
        for features, patches in zip(batch, alone, strict=True):
            np.testing.assert_array_equal(features.patches, patches)
