"""Questions about the drawn world: their answers are true, they cannot be guessed, and their words occur in training.

The tests derive the truth from `visible_at` frame by frame, without the visits that `model.world.questions` uses.
"""

import re
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from model.world import phrases
from model.world.questions import (
    FAMILIES,
    TIME_FAMILIES,
    Query,
    Question,
    captions,
    clock_answer,
    is_correct,
    majority_accuracy,
    matches,
    question_only_guess,
    questions,
    true_answer,
    vocabulary_texts,
)
from model.world.scene import Scene
from model.world.things import COLOURS, KINDS, PLACES, Split, Visible

START = 1_795_364_645.0  # 2026-11-22 16:24:05 UTC
Sight = dict[float, list[Visible]]


def ask(
    seed: int, split: Split = "train", *, end: float = 400.0, style: str | None = None
) -> tuple[Scene, list[Question]]:
    scene = Scene.from_seed(seed, duration_s=400, split=split, style=style)  # type: ignore[arg-type]
    return scene, questions(scene, START, np.arange(0.0, end), np.random.default_rng(seed), split)


@pytest.fixture(scope="module")
def asked() -> list[tuple[Scene, float, Question]]:
    """Return (scene, end of the window, question) of forty windows; most end while something is in sight."""
    found = []
    for seed in range(40):
        scene = Scene.from_seed(seed, duration_s=400)
        event = scene.events[seed % len(scene.events)]
        end = 400.0 if seed % 4 == 0 else max(60.0, float(round(event.start_s + 3)))
        found += [(scene, end, question) for question in ask(seed, end=end)[1]]
    return found


def sights(scene: Scene, end: float) -> Sight:
    """Return what is clearly visible on each frame of the window. Closed doors count as wall."""
    return {t: [v for v in scene.visible_at(t) if v.action != "closed"] for t in np.arange(0.0, end).tolist()}


@pytest.fixture(scope="module")
def seen(asked: list[tuple[Scene, float, Question]]) -> dict[int, Sight]:
    return {id(scene): sights(scene, end) for scene, end in {(scene, end) for scene, end, _ in asked}}


def of_family(asked: list[tuple[Scene, float, Question]], *families: str) -> list[tuple[Scene, float, Question]]:
    chosen = [entry for entry in asked if entry[2].family in families]
    assert len(chosen) >= 10, families
    return chosen


def times_of(sight: Sight, query: Query) -> list[float]:
    first = replace(query, second=None)
    return [t for t, shown in sight.items() if any(matches(first, v) for v in shown)]


def test_every_family_occurs(asked: list[tuple[Scene, float, Question]]) -> None:
    assert {question.family for _, _, question in asked} == set(FAMILIES)


def test_existence_questions_match_the_events(
    asked: list[tuple[Scene, float, Question]], seen: dict[int, Sight]
) -> None:
    answers = Counter[str]()
    for scene, end, question in of_family(asked, "existence"):
        assert question.query is not None
        came = bool(times_of(seen[id(scene)], question.query))
        assert question.answer == ("yes" if came else "no")
        answers[question.answer] += 1
        if not came:  # hard case: its kind or its colour was there, and it was not partly visible
            half = [v for t in np.arange(0.0, end).tolist() for v in scene.visible_at(t, 0.25) if v.action != "closed"]
            assert not any(matches(question.query, v) for v in half)
            assert any(question.query.kind == v.kind or question.query.colour == v.colour for v in half)
    assert abs(answers["yes"] - answers["no"]) <= 0.05 * answers.total()


def test_colour_questions_ask_about_kinds_with_one_colour(
    asked: list[tuple[Scene, float, Question]], seen: dict[int, Sight]
) -> None:
    for scene, _, question in of_family(asked, "colour"):
        assert question.query is not None
        shown = [v for views in seen[id(scene)].values() for v in views if matches(question.query, v)]
        assert {v.colour for v in shown} == {question.answer}


def test_count_is_the_number_of_visitors(asked: list[tuple[Scene, float, Question]], seen: dict[int, Sight]) -> None:
    """Count by identity, which a viewer cannot see: the rule about gaps must give the same count. Doors: by openings."""
    for scene, end, question in of_family(asked, "count"):
        assert question.query is not None
        shown = [v for views in seen[id(scene)].values() for v in views if matches(question.query, v)]
        visitors = {v.actor for v in shown if v.kind != "door"}
        openings = {
            (door.colour, span)
            for door in scene.layout.doors
            for span in door.openings
            if any(
                matches(question.query, v) and v.actor == door.number
                for t in seen[id(scene)]
                if span[0] <= t <= span[1]
                for v in seen[id(scene)][t]
            )
        }
        number = len(visitors) + (len(openings) if question.query.kind in (None, "door") else 0)
        assert question.answer == phrases.NUMBERS[number], (question, end)


def test_answer_times_lie_inside_the_event(asked: list[tuple[Scene, float, Question]], seen: dict[int, Sight]) -> None:
    for scene, _, question in of_family(asked, *TIME_FAMILIES):
        assert question.query is not None
        shown = times_of(seen[id(scene)], question.query)
        for t in (question.spans[0][0], question.spans[-1][1]):
            assert t in shown
            assert is_correct(question, clock_answer(question, t))
        if question.family == "last_seen":
            assert question.spans[-1][1] == shown[-1]
        else:
            assert (question.spans[0][0], question.spans[-1][1]) == (shown[0], shown[-1])


def test_order_questions_match_the_events(asked: list[tuple[Scene, float, Question]], seen: dict[int, Sight]) -> None:
    for scene, _, question in of_family(asked, "order"):
        assert question.query is not None
        assert question.query.second is not None
        first, second = (times_of(seen[id(scene)], query) for query in (question.query, question.query.second))
        assert question.answer == ("before" if max(first) < min(second) else "after")
        assert max(first) < min(second) or max(second) < min(first)


def test_where_questions_match_the_events(asked: list[tuple[Scene, float, Question]], seen: dict[int, Sight]) -> None:
    for scene, _, question in of_family(asked, "where"):
        assert question.query is not None
        middles = [
            (v.box[0] + v.box[2]) / 2 for views in seen[id(scene)].values() for v in views if matches(question.query, v)
        ]
        third = PLACES.index(question.answer)
        assert np.mean([third / 3 <= x <= (third + 1) / 3 for x in middles]) >= 0.65


def test_present_answer_names_what_the_last_frame_shows() -> None:
    answers = Counter[str]()
    for seed in range(60):
        scene = Scene.from_seed(seed, duration_s=60, density=2.0)
        end = 20.0 + seed % 40
        for question in questions(scene, START, np.arange(0.0, end), np.random.default_rng(seed), "eval"):
            if question.family == "present":
                here = [v for v in scene.visible_at(end - 1) if v.action != "closed"]
                here.sort(key=lambda v: v.box[0] + v.box[2])
                names = " and ".join(f"a {v.colour} {v.kind}" for v in here).replace("a orange", "an orange")
                assert question.answer == (names or "nothing")
                assert question.spans == ((end - 1, end - 1),)
                answers[question.answer] += 1
    assert answers.total() >= 15
    assert 0 < answers["nothing"] < 0.6 * answers.total()


def test_left_behind_object_has_no_owner_in_view(asked: list[tuple[Scene, float, Question]]) -> None:
    answers = Counter[bool]()
    for scene, _, question in [entry for entry in asked if entry[2].family == "left_behind"]:
        assert scene.style == "fixed"
        left = [e for e in scene.events if e.owner_gone_s is not None]
        answers[question.answer == "nothing"] += 1
        for first, last in question.spans:
            event = next(e for e in left if question.answer.endswith(f"{e.colour} {e.kind}"))
            owner = scene.actors[event.actor].owner
            for t in np.arange(first, last + 0.5).tolist():
                assert owner not in {v.actor for v in scene.visible_at(t, 0.01)}
                assert event.actor in {p.actor for p in scene.placements(t)}
    assert answers[False] >= 5


def test_room_answer_is_where_the_thing_was() -> None:
    found = 0
    for seed in range(12):
        scene, asked = ask(seed, style="robot")
        zones = {name: (a, b) for name, a, b in scene.layout.zones}
        for question in asked:
            if question.family != "room":
                continue
            found += 1
            assert question.query is not None
            begin, end = zones[question.answer]
            shown = sights(scene, 400.0).items()
            xs = [scene.camera.x_at(t) + (v.box[0] + v.box[2]) / 2 for t, views in shown for v in views
                  if matches(question.query, v)]  # fmt: skip
            assert np.mean([begin < x < end for x in xs]) >= 0.8
    assert found >= 10


def test_evidence_spans_contain_the_event(asked: list[tuple[Scene, float, Question]], seen: dict[int, Sight]) -> None:
    """The thing asked about is in sight at both ends of every span, and spans lie inside the window."""
    for scene, end, question in asked:
        assert all(0 <= first <= last <= end - 1 for first, last in question.spans)
        if question.query is not None and question.family != "left_behind":
            for t in (t for span in question.spans for t in span):
                assert any(matches(question.query, v) for v in seen[id(scene)][t])


def test_same_seed_asks_the_same_questions() -> None:
    assert ask(5)[1] == ask(5)[1]


def test_training_and_evaluation_phrasings_differ_but_share_vocabulary() -> None:
    texts: dict[str, set[str]] = {}
    for split in ("train", "eval"):
        texts[split] = {q.text for seed in range(12) for q in ask(seed, split)[1]}
    assert not texts["train"] & texts["eval"]
    known = {word for text in vocabulary_texts() for word in re.findall(r"[a-z]+", text)}
    for text in texts["train"] | texts["eval"]:
        assert set(re.findall(r"[a-z]+", text)) <= known, text
    for choices in (value for value in vars(phrases).values() if isinstance(value, dict) and "train" in value):
        assert not set(choices["train"]) & set(choices["eval"])


def test_every_text_uses_the_right_article(asked: list[tuple[Scene, float, Question]]) -> None:
    for text in [*(q.text for _, _, q in asked), *(q.answer for _, _, q in asked), *vocabulary_texts()]:
        assert not re.search(r"\ba [aeio]|\ban [^aeio]", text), text


def test_answers_are_known_words(asked: list[tuple[Scene, float, Question]]) -> None:
    known = {word for text in vocabulary_texts() for word in text.split()}
    for _, _, question in asked:
        if question.family not in TIME_FAMILIES:
            assert set(question.answer.split()) <= known
            assert question.answer == question.answer.lower()


def clocked(first: float, last: float, start: float = START) -> Question:
    return Question(
        "when", "when did the red car come?", f"@{(first + last) / 2}", Query("car", "red"), ((first, last),), start
    )


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("16:24:15", True),  # the first moment
        ("16:24:13", True),  # two seconds too early
        ("16:24:12", False),
        ("16:24:27", True),  # two seconds too late
        ("16:24:28", False),
        ("at 16:24:20.", True),
        ("16:24", False),
        ("04:24:20", False),
        ("16:24:20 or 16:24:40", False),
        ("", False),
    ],
)
def test_time_inside_the_event_is_correct(answer: str, right: bool) -> None:
    assert is_correct(clocked(10.0, 20.0), answer) is right


def test_time_is_judged_across_midnight_and_in_the_zone_of_the_camera() -> None:
    before_midnight = START + 7 * 3600 + 35 * 60 + 50  # 23:59:55
    assert is_correct(clocked(0.0, 10.0, before_midnight), "00:00:03")
    assert is_correct(clocked(0.0, 10.0, before_midnight), "23:59:58")
    assert not is_correct(clocked(0.0, 10.0, before_midnight), "00:00:30")
    there = replace(clocked(0.0, 10.0), utc_offset_s=-5 * 3600.0)
    assert is_correct(there, "11:24:10")
    assert true_answer(there) == "11:24:10"


@pytest.mark.parametrize(
    ("answer", "right"), [("a red car", True), ("A red car.", True), ("a red", False), ("", False)]
)
def test_answer_words_must_match(answer: str, right: bool) -> None:
    assert is_correct(Question("present", "what is here now?", "a red car", None), answer) is right


def test_true_answers_are_scored_correct(asked: list[tuple[Scene, float, Question]]) -> None:
    assert all(is_correct(question, true_answer(question)) for _, _, question in asked)


def test_guesser_without_video_learns_the_most_common_answers() -> None:
    def colour(kind: str, answer: str) -> Question:
        return Question("colour", f"what colour was the {kind}?", answer, Query(kind))

    known = [colour("car", "red")] * 3 + [colour("dog", "blue")] * 2
    asked = [colour("car", "red"), colour("dog", "blue"), colour("dog", "green"), colour("car", "blue")]
    assert question_only_guess(known, asked) == {"colour": 0.5, "all": 0.5}  # by kind: red for cars, blue for dogs
    assert majority_accuracy(asked) == {"colour": 0.5, "all": 0.5}
    assert question_only_guess([], asked)["all"] == 0.0


def test_only_binary_families_can_be_guessed() -> None:
    known, held_out = ([q for seed in range(20) for q in ask(seed, split)[1]] for split in ("train", "eval"))
    guess = question_only_guess(known, held_out)
    sizes = Counter(q.family for q in held_out)
    for family in ("colour", "count", "when", "last_seen", "where"):
        assert guess[family] < 0.3 + 2 / sizes[family] ** 0.5, (family, guess[family])
    assert guess["existence"] < 0.65


def test_captions_name_every_kind_and_colour_once() -> None:
    named = [query for _, query in captions() if query.second is None and query.kind and query.colour]
    assert Counter((q.kind, q.colour) for q in named) == Counter({(k, c): 1 for k in KINDS for c in COLOURS})
    assert all(len(set(texts)) == len(texts) > 0 for texts, _ in captions())


def test_query_matches_its_things() -> None:
    car = Visible("car", "red", (0.0, 0.0, 0.1, 0.1), 1, "crossing")
    shut = Visible("door", "red", (0.0, 0.0, 0.1, 0.1), -1, "closed")
    assert matches(Query(), car)
    assert matches(Query("car"), car)
    assert matches(Query(None, "red"), car)
    assert matches(Query("dog", "blue", Query("car", "red")), car)
    assert not matches(Query("car", "blue"), car)
    assert not matches(Query("door", "red"), shut)
    assert matches(Query("door", "red"), replace(shut, action="open"))


def test_things_seen_in_one_frame_are_not_asked_about() -> None:
    """With frames ten seconds apart most visits show once; questions that need more frames are not asked."""
    for seed in range(10):
        scene = Scene.from_seed(seed, duration_s=400)
        times = np.arange(0.0, 400.0, 10.0)
        frames: dict[tuple[str, str], int] = defaultdict(int)
        for t in times.tolist():
            for v in scene.visible_at(t):
                frames[v.kind, v.colour] += v.action != "closed"
        for question in questions(scene, START, times, np.random.default_rng(seed), "eval"):
            if question.family in ("when", "where", "order", "room"):
                query = question.query
                assert query is not None
                assert frames[query.kind or "", query.colour or ""] >= 2
