"""The evaluation counts correctly, and the built-in checkpoint answers far better than chance."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.ask.keyframes import Selection, uniform_rows
from agent.evaluation.arms import Asker, merging_otherwise
from agent.evaluation.clips import (
    Clip,
    Moment,
    drawn_rows,
    features_of,
    labelled_videos,
    video_clip,
    world_clip,
    world_clips,
)
from agent.evaluation.run import evaluate, is_needle, main, needle_hits, zones_of
from agent.evaluation.scores import Needle, Tally, bins_below, by_depth, summarise, wilson
from model.video_model import VideoModel
from model.world.codec import Codec
from model.world.questions import Query, Question, is_correct
from model.world.video import write_video
from tests.support import tiny

BUILTIN = Path(__file__).parents[3] / "model" / "builtin"


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> VideoModel:
    return VideoModel.load(tiny.make_checkpoint(tmp_path_factory.mktemp("model") / "tiny"))


def clip_of(num_frames: int, *asked: Question, moments: tuple[Moment, ...] = ()) -> Clip:
    pictures = tiny.make_pictures(num_frames)
    return Clip("pictures", np.arange(float(num_frames)), lambda: iter(pictures), asked, 0.0, moments)


def asker_of(model: VideoModel, clip: Clip) -> Asker:
    return Asker(model, features_of(model, clip), clip.times)


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
    needle = needle_hits(asker_of(tiny_model, clip), clip, question, Selection(num_keyframes=4))
    assert needle.depth == pytest.approx(6 / 20)
    assert needle.uniform == 1.0
    assert needle.random == pytest.approx(1 - (15 * 14 * 13 * 12) / (20 * 19 * 18 * 17))


def test_the_report_counts_what_was_answered(tiny_model: VideoModel) -> None:
    question = Question("colour", "what colour was the bag?", "red", Query("bag"), ((0.0, 1.0),))
    now = Question("present", "what is here now?", "nothing", None, ((2.0, 2.0),))
    tally = Tally()
    evaluate(tiny_model, [clip_of(6, question, moments=(Moment(2, now), Moment(4, now)))], tally)
    report = summarise([tally], [question])
    assert tally.asked[0].answer != ""  # a tiny random model says something, and it is counted as wrong
    assert report["families"]["colour"]["questions"] == 1
    assert report["families"]["colour"]["mean"] == float(tally.asked[0].right)
    assert report["families"]["colour"]["question_only_guess"] == 1.0  # the guesser saw this very question
    assert report["present"]["questions"] == 2
    assert report["present"]["majority_answer"] == 1.0
    assert set(report["present"]["by_number"]) == set(report["present"]["whole_history"]["by_number"]) == {"nothing"}
    assert report["all_families"]["questions"] == 1  # moments are a row of their own


def test_a_question_about_now_is_put_to_the_newest_frames(tiny_model: VideoModel) -> None:
    """The tiny model's words change with what it sees: the same words are the same frames."""
    texts = ("what is here now?", "who was here?")
    asked = [Question("present", text, "nothing", None, ((2.0, 2.0),)) for text in texts]
    clip, tally = clip_of(30, *asked), Tally()
    evaluate(tiny_model, [clip], tally)
    asker, arm = asker_of(tiny_model, clip), Selection.of(tiny_model.info.defaults)
    whole, newest = ([each.ask(text, arm).text for text in texts] for each in (asker, asker.latest(4)))
    assert all(a != b for a, b in zip(whole, newest, strict=True))
    assert [each.answer for each in tally.asked] == [newest[0], whole[1]]


def test_order_and_place_are_asked_in_steps() -> None:
    """Held-out worlds and phrasings; asked directly, this model says "after" and "hall"."""
    model = VideoModel.load(BUILTIN)
    clips = [world_clip(seed, 120) for seed in range(7)]
    right: dict[str, list[bool]] = {"order": [], "room": []}
    for clip in clips:
        asker = Asker(model, features_of(model, clip), clip.times, zones_of(clip))
        for question in clip.questions:
            if question.family in right:
                assert asker.is_composed(question.text)
                said = asker.ask_in_steps(question.text, Selection.of(model.info.defaults))
                right[question.family].append(is_correct(question, said))
    assert len(right["order"]) >= 6
    assert len(right["room"]) >= 1
    assert sum(right["order"]) >= len(right["order"]) - 1
    assert sum(right["room"]) >= len(right["room"]) - 1


def test_thing_that_never_came_is_reported_so(tiny_model: VideoModel) -> None:
    clip = clip_of(20)
    asker = asker_of(tiny_model, clip)
    assert not asker.is_composed("in which room was the red ball?")  # nothing was sent of places
    assert asker.is_composed("was the dog here before or after the red ball?")
    builtin = VideoModel.load(BUILTIN)
    scene_clip = world_clip(0, 40)
    asker = Asker(builtin, features_of(builtin, scene_clip), scene_clip.times, ["hall"] * 40)
    kinds = {(event.kind, event.colour) for event in scene_clip.scene.events} if scene_clip.scene else set()
    kind, colour = next((k, c) for k in ("truck", "bicycle") for c in ("purple", "white") if (k, c) not in kinds)
    text = f"in which room was the {colour} {kind}?"
    assert asker.is_composed(text)
    assert asker.ask_in_steps(text, Selection.of(builtin.info.defaults)) == f"I saw no {colour} {kind}"


def test_history_is_rotated_to_end_at_a_moment(tiny_model: VideoModel) -> None:
    asker = asker_of(tiny_model, clip_of(6))
    turned = asker.as_of(2)
    places = {id(frame): place for place, frame in enumerate(asker.window.features)}
    assert [places[id(frame)] for frame in turned.window.features] == [3, 4, 5, 0, 1, 2]
    assert np.array_equal(turned.window.times, asker.window.times)


def test_wilson_interval_equals_published_values() -> None:
    assert wilson(9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-3)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-3)
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_bin_that_loses_its_needles_is_named() -> None:
    even = [Needle((depth + 0.5) / 10, number % 20 > 0, 0, 0) for depth in range(10) for number in range(200)]
    assert [each["count"] for each in by_depth(even)] == [200] * 10
    assert bins_below(by_depth(even)) == []
    lost = [replace(n, found=n.found and not (0.3 < n.depth < 0.4 and i % 4 == 1)) for i, n in enumerate(even)]
    assert bins_below(by_depth(lost)) == [3]


def test_arms_differ_in_one_thing(tiny_model: VideoModel) -> None:
    """top-K takes the best whatever they are like, uniform asks no question; all keep the newest and the same number."""
    asker = asker_of(tiny_model, clip_of(40))
    query = tiny_model.embed_text("red car").unit
    arm = Selection(num_keyframes=6, recent=2, tau=0.5)
    top = replace(arm, rule="top_k")(asker.window, query)
    best = np.argsort(-(asker.window.unit[:38] @ query), kind="stable")[:4]
    assert set(top.rows) == {*best.tolist(), 38, 39}
    other = tiny_model.embed_text("two dogs at night").unit
    uniform = replace(arm, rule="uniform")
    assert np.array_equal(uniform(asker.window, query).rows, uniform(asker.window, other).rows)
    for chosen in (top, uniform(asker.window, query), arm(asker.window, query)):
        assert len(chosen.rows) == len(chosen.kinds) == 6
        assert chosen.kinds.count("recent") == 2


def test_uniform_rows_are_the_middles_of_equal_parts() -> None:
    rows, kinds = uniform_rows(12, 5, 2)
    assert rows.tolist() == [1, 5, 8, 10, 11]
    assert kinds == ("filling",) * 3 + ("recent",) * 2
    assert uniform_rows(3, 5, 4)[0].tolist() == [0, 1, 2]


def test_merging_otherwise_leaves_weights_and_features_alone(tiny_model: VideoModel) -> None:
    asker, arm = asker_of(tiny_model, clip_of(12)), Selection(num_keyframes=2)
    without = merging_otherwise(tiny_model, composer="none")
    assert without.network is tiny_model.network
    kept = asker.ask("what is here?", arm)
    alone = asker.ask("what is here?", arm, without)
    assert kept.num_tokens - alone.num_tokens == 10  # one token for each of the other frames
    assert asker.ask("what is here?", arm).text == kept.text  # the model itself merges as before
    assert merging_otherwise(tiny_model, temperature=5.0).merger.temperature == 5.0
    assert tiny_model.merger.temperature != 5.0


def test_the_same_seed_makes_the_same_clips() -> None:
    first, second = (next(world_clips(4, 30, 1, moments=3)) for _ in range(2))
    assert (first.questions, first.moments) == (second.questions, second.moments)
    assert np.array_equal(next(first.pictures()), next(second.pictures()))


def test_more_rounds_add_phrasings_and_repeat_none() -> None:
    once, thrice = (world_clip(4036, 200, rounds=rounds) for rounds in (1, 3))
    assert thrice.questions[: len(once.questions)] == once.questions
    assert len(once.questions) < len(thrice.questions) == len({q.text for q in thrice.questions})


def test_a_quarter_of_the_moments_show_nothing() -> None:
    clip = world_clip(4036, 400, moments=12)
    answers = [moment.question.answer for moment in clip.moments]
    assert answers.count("nothing") == 3
    assert len(answers) == 12
    assert clip.scene is not None
    for moment in clip.moments:
        seen = [v for v in clip.scene.visible_at(float(moment.row)) if v.action != "closed"]
        assert len(seen) == (0 if moment.question.answer == "nothing" else moment.question.answer.count(" and ") + 1)


def test_only_empty_stretches_are_thinned(tiny_model: VideoModel) -> None:
    clip, whole = (world_clip(4036, 120, empty_every=every) for every in (5, 1))
    assert clip.scene is not None
    assert clip.scene.style == "fixed"
    assert clip.picture_of is not None
    drawn = drawn_rows(clip.scene, np.arange(120.0), 5)
    busy = clip.scene.may_show(np.arange(120.0))
    assert set(np.flatnonzero(busy)) < set(drawn.tolist())
    assert len(drawn) < 120
    stands_for = drawn[clip.picture_of]
    assert np.array_equal(stands_for[busy], np.flatnonzero(busy))
    assert all(0 <= row - stands_for[row] < 5 for row in range(120))
    assert clip.questions == whole.questions
    kept = features_of(tiny_model, clip)
    assert len(kept) == 120
    assert all(kept[row] is kept[stands_for[row]] for row in range(120))


def test_features_are_cached_by_clip(tiny_model: VideoModel, tmp_path: Path) -> None:
    clip = clip_of(5)
    first = features_of(tiny_model, clip, tmp_path)
    one_picture = tiny.make_pictures(1)
    changed = replace(clip, pictures=lambda: iter(one_picture))  # whoever reads from the cache does not draw
    again = features_of(tiny_model, changed, tmp_path)
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.patches, other.patches)
        assert np.array_equal(one.embedding, other.embedding)
    assert len(features_of(tiny_model, replace(changed, name="other"), tmp_path)) == 1
    assert world_clip(1, 30).name != world_clip(1, 30, codec=Codec()).name


def test_any_labelled_video_is_evaluated(tiny_model: VideoModel, tmp_path: Path) -> None:
    write_video(tmp_path / "yard.mp4", seed=3, minutes=0.5, rate_hz=4.0, size=(128, 72))
    (tmp_path / "notes.txt").write_text("not a video")
    assert labelled_videos(tmp_path) == [tmp_path / "yard.mp4"]
    clip = video_clip(tmp_path / "yard.mp4", rate_hz=2.0)
    assert len(clip.times) == 60
    assert np.allclose(np.diff(clip.times), 0.5)
    tally = Tally()
    evaluate(tiny_model, [clip], tally)
    assert len(tally.asked) == len(clip.questions) > 0


def test_folders_without_logs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no log")
    assert main(["--videos", str(tmp_path)]) == 1
    assert "with a log of the same name" in capsys.readouterr().out


def test_built_in_model_is_far_better_than_chance(tmp_path: Path) -> None:
    """64 frames, two held-out worlds: the smallest run that tells a trained checkpoint from a broken one."""
    out = tmp_path / "report.json"
    assert main(["--frames", "64", "--seeds", "31", "--worlds", "2", "--moments", "4", "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["dks_recall"]["mean"] >= 0.9
    assert report["all_families"]["mean"] >= 0.6
    assert report["all_families"]["mean"] > report["all_families"]["question_only_guess"] + 0.2
    assert report["all_families"]["mean"] > report["all_families"]["last_4_frames"] + 0.2
    assert report["present"]["mean"] > report["present"]["majority_answer"] + 0.2
