"""The sentences of composed answers, and what is read from the short answers of models."""

import pytest

from agent.ask.sentences import (
    Wording,
    cut,
    ever_question,
    joined,
    means_no,
    means_yes,
    more_often,
    order_of,
    read_which,
    verdict_of,
    when_question,
)


def test_questions_are_in_the_words_that_the_model_was_trained_on() -> None:
    things = "person with the orange bag", "green door"
    assert [when_question(thing) for thing in things] == [
        "when did the person with the orange bag come?",
        "when did the green door open?",
    ]
    assert [ever_question(thing) for thing in things] == [
        "did any person with the orange bag ever come?",
        "did any green door ever open?",
    ]


def test_sentences_of_what_was_looked_at() -> None:
    dog, bag, door = Wording("dog"), Wording("orange bag"), Wording("green door")
    assert dog.count([], at_least=False) == "I saw no dog: zero times"
    assert dog.count(["10:00:00"], at_least=False) == "A dog came at 10:00:00: one time"
    assert (
        dog.count(["10:00:00", "11:00:00"], at_least=True) == "A dog came at 10:00:00 and 11:00:00: at least two times"
    )
    assert bag.count(["10:00:00"], at_least=False).startswith("An orange bag came")
    assert door.count(["10:00:00"], at_least=False).startswith("A green door opened")
    assert bag.existence("10:00:00") == "Yes, an orange bag came at 10:00:00"
    assert dog.existence(None) == "No, I saw no dog"
    assert bag.end("last", "10:00:00") == "An orange bag was last seen at 10:00:00"
    assert door.clause("10:00:00") == "the green door opened at 10:00:00"
    assert door.place("10:00:00", "camera yard") == "The green door was seen at 10:00:00: camera yard"
    assert dog.seen(["10:00:00"]) == "A dog was seen at 10:00:00"
    assert dog.duration(["from 10:00 to 10:05"], "5 min") == "A dog was there from 10:00 to 10:05: 5 min"
    assert dog.duration(["at 9", "at 10"], "one frame") == "A dog was there at 9 and at 10: one frame in all"


def test_how_many_wanted_is_answered_with_yes_or_no() -> None:
    dog = Wording("dog")
    assert dog.count(["a", "b"], at_least=False, wanted=3) == "No. A dog came at a and b: two times"
    assert dog.count(["a", "b", "c"], at_least=True, wanted=3) == "Yes. A dog came at a, b and c: at least three times"
    assert dog.count(["a"], at_least=True, wanted=3) == "I cannot tell. A dog came at a: at least one time"


def test_nothing_is_claimed_of_pictures_that_nobody_looked_at() -> None:
    dog = Wording("dog", looked=False)
    assert dog.existence("10:00:00") == "Something like a dog stood out at 10:00:00"
    assert dog.existence(None) == "Nothing like a dog stood out"
    assert dog.count(["a", "b"], at_least=True) == "Something like a dog stood out at a and b: at least two times"
    assert dog.end("first", "a") == "Something like a dog first stood out at a"
    assert dog.seen(["a"]) == "Something like a dog stood out at a"


def test_long_lists_are_cut() -> None:
    assert joined(["a", "b", "c"]) == "a, b and c"
    assert joined(["a"]) == "a"
    assert joined([str(n) for n in range(15)]).endswith(", 11 and 3 more")


@pytest.mark.parametrize(
    ("relation", "earlier", "later"),
    [
        ("before or after", "before", "after"),
        ("before", "yes", "no"),
        ("after", "no", "yes"),
        ("first", "the car", "the dog"),
        ("last", "the dog", "the car"),
    ],
)
def test_order_from_two_times(relation: str, earlier: str, later: str) -> None:
    things = ("car", "dog")
    assert (order_of(relation, things, (1.0, 2.0)), order_of(relation, things, (2.0, 1.0))) == (earlier, later)
    assert order_of(relation, things, (2.0, 2.0)) == "at the same time"


def test_which_was_more_often() -> None:
    assert more_often(("the dog", "the cat"), (2, 1)) == "more often: the dog"
    assert more_often(("the dog", "the cat"), (1, 2)) == "more often: the cat"
    assert more_often(("the dog", "the cat"), (2, 2)) == "equally often"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("1: yes\n2: no\n3: yes", [True, False, True]),
        ("1. Yes\n2. No\n3. No.", [True, False, False]),
        ("Picture 1: **yes**\nPicture 2 - no", [True, False, None]),
        ("3: yes, 1: no", [False, None, True]),
        ("None of the pictures shows it.", [False, False, False]),
        ("No.", [False, False, False]),
        ("I see a dog.", [None, None, None]),
        ("", [None, None, None]),
        ("1: yes\n1: no\n9: yes", [True, None, None]),
    ],
)
def test_what_is_said_of_several_pictures(said: str, meant: list[bool | None]) -> None:
    assert read_which(said, 3) == meant


def test_answers_that_mean_yes_or_no() -> None:
    assert [means_no(text) for text in ("no", " No.", "no, never", "nothing", "yes", "")] == [True] * 3 + [False] * 3
    assert [means_yes(text) for text in ("yes", ' "Yes."', "**yes**", "yesterday", "no", "")] == [True] * 3 + [
        False
    ] * 3


def test_text_is_cut_after_words_and_marks() -> None:
    assert cut("A dog came.", None) == ("A dog came.", 4, False)
    assert cut("A dog came.", 4) == ("A dog came.", 4, False)
    assert cut("A dog came.", 2) == ("A dog", 2, True)


def test_verdict_is_the_end_of_an_answer() -> None:
    assert verdict_of("The red car came at 14:03:22, the dog came at 13:58:10: after.") == "after"
    assert verdict_of("after") == "after"
    assert verdict_of("The ball was seen at 14:03:22: on the left of the picture.") == "left"
    assert verdict_of("The ball was seen at 14:03:22: in the middle of the picture.") == "middle"
    assert (
        verdict_of("The ball was seen at 1:03:22: from the left to the right of the picture.")
        == "from the left to the right"
    )
    assert verdict_of("Yes, an orange bag came at 14:03:22.") == "yes"
    assert verdict_of("No, I saw no dog.") == "no"
    assert verdict_of("An orange bag was last seen at 14:03:22.") == "14:03:22"
    assert verdict_of("I saw no dog.") == "I saw no dog"
