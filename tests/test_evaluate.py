"""Evaluation counts right: needles, guesses, spread; and the built-in checkpoint answers far better than chance."""

import json
from pathlib import Path

import numpy as np
import pytest

from model.evaluate import Clip, Tally, encode_clip, evaluate, is_needle, main, needle_hits, summarise, world_clips
from model.video_model import VideoModel
from model.world.questions import Query, Question
from tests import tiny

BUILTIN = Path(__file__).parent.parent / "model" / "builtin"


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> VideoModel:
    return VideoModel.load(tiny.make_checkpoint(tmp_path_factory.mktemp("model") / "tiny"))


def clip_of(num_frames: int, question: Question) -> Clip:
    pictures = tiny.make_pictures(num_frames)
    return Clip("pictures", np.arange(float(num_frames)), lambda: iter(pictures), (question,), 0.0)


def test_a_needle_is_one_short_event() -> None:
    query = Query("car", "red")
    assert is_needle(Question("when", "?", "@3", query, ((2.0, 5.0),)))
    assert not is_needle(Question("when", "?", "@3", query, ((2.0, 40.0),)))  # too long
    assert not is_needle(Question("existence", "?", "yes", query, ((2.0, 5.0), (9.0, 12.0))))  # twice
    assert not is_needle(Question("present", "?", "a red car", None, ((5.0, 5.0),)))  # names nothing


def test_uniform_and_random_choice_have_their_closed_forms(tiny_model: VideoModel) -> None:
    # 20 frames, 4 places, an event on 5 of them: uniform steps of 5 always meet it; random misses with 15*14*13*12/(20*19*18*17)
    question = Question("when", "when did the red car come?", "@8", Query("car", "red"), ((6.0, 10.0),))
    clip = clip_of(20, question)
    depth, _, uniform, random = needle_hits(tiny_model, encode_clip(tiny_model, clip), clip, question)
    assert depth == pytest.approx(6 / 20)
    assert uniform == 1.0
    assert random == pytest.approx(1 - (15 * 14 * 13 * 12) / (20 * 19 * 18 * 17))


def test_the_report_counts_what_was_answered(tiny_model: VideoModel) -> None:
    question = Question("colour", "what colour was the bag?", "red", Query("bag"), ((0.0, 1.0),))
    tally = Tally()
    evaluate(tiny_model, [clip_of(6, question)], tally)
    report = summarise([tally], [question])
    assert tally.answers[0] != ""  # a tiny random model says something, and it is counted as wrong
    assert report["families"]["colour"]["questions"] == 1
    assert report["families"]["colour"]["mean"] == float(tally.right["colour"][0])
    assert report["families"]["colour"]["question_only_guess"] == 1.0  # the guesser saw this very question


def test_the_same_seed_makes_the_same_clips() -> None:
    first, second = (next(world_clips(4, 30, 1)) for _ in range(2))
    assert first.questions == second.questions
    assert np.array_equal(next(first.pictures()), next(second.pictures()))


def test_the_built_in_model_is_far_from_chance(tmp_path: Path) -> None:
    """64 frames, two held-out worlds: the smallest run that tells a trained checkpoint from a broken one."""
    out = tmp_path / "report.json"
    assert main(["--frames", "64", "--seeds", "31", "--worlds", "2", "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["dks_recall"]["mean"] >= 0.9
    assert report["all_families"]["mean"] >= 0.6
    assert report["all_families"]["mean"] > report["all_families"]["question_only_guess"] + 0.2
