"""Conditions become questions, and answers become verdicts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.ask.condition import Asked, asked, problem_of, read_answer

DOG, TWO_DOGS = Asked("", "dog"), Asked("", "dog", at_least=2)
NO_DOG, BAG, RED_BAG = Asked("", "dog", absent=True), Asked("", "bag"), Asked("", "red bag")


@pytest.mark.parametrize(
    ("condition", "question"),
    [
        ("a red truck comes", "how many times did a red truck come?"),
        ("A red lorry comes.", "how many times did a red truck come?"),
        ("any orange dog comes by", "how many times did an orange dog come?"),
        ("a person walks by", "how many times did a person come?"),
        ("a man at the gate", "how many times did a person come?"),
        ("a door opens", "how many times did a door open?"),
        ("there is a blue dog", "how many times did a blue dog come?"),
        ("a red car is here", "how many times did a red car come?"),
        ("a dog", "how many times did a dog come?"),
        ("tell me when a cat comes", "how many times did a cat come?"),
        ("a bag is left behind by the door", "was a bag left behind?"),
        ("something is left behind", "was something left behind?"),
        ("ein gelber Lastwagen kommt", "how many times did a yellow truck come?"),
    ],
)
def test_a_condition_as_a_question(condition: str, question: str) -> None:
    assert asked(condition).question == question


@pytest.mark.parametrize(
    ("condition", "at_least", "absent"),
    [
        ("more than two dogs", 3, False),
        ("at least two dogs", 2, False),
        ("no dog is there", 1, True),
        ("a dog comes", 1, False),
    ],
)
def test_a_condition_may_ask_for_a_number_or_for_none(condition: str, at_least: int, absent: bool) -> None:
    found = asked(condition)
    assert (found.thing, found.at_least, found.absent) == ("dog", at_least, absent)


@pytest.mark.parametrize("condition", ["two people fight", "a car crashes", "somebody falls", "a person walks a dog"])
def test_what_a_plain_model_cannot_judge_stays_unchanged_and_its_maker_is_warned(condition: str) -> None:
    assert asked(f"{condition}.").question == f"{condition}?"
    problem, is_refused = problem_of(condition, asks_questions=True)
    assert "can only tell" in problem
    assert not is_refused
    assert problem_of(condition, asks_questions=False) == ("", False)


@pytest.mark.parametrize("condition", ["asdf qwer", "the stock price falls tomorrow"])
def test_a_condition_without_sense_is_refused(condition: str) -> None:
    problem, is_refused = problem_of(condition, asks_questions=False)
    assert condition in problem
    assert is_refused


@settings(max_examples=20, deadline=None)
@given(condition=st.text(min_size=1, max_size=60))
def test_every_condition_becomes_one_question(condition: str) -> None:
    question = asked(condition).question
    assert question.endswith("?")
    assert "\n" not in question


@pytest.mark.parametrize("answer", ["yes", "Yes.", "one", "two", "3", "once"])
def test_yes(answer: str) -> None:
    assert read_answer(answer, DOG) == "yes"
    assert read_answer(answer, NO_DOG) == "no"


@pytest.mark.parametrize("answer", ["no", "No.", "zero", "0", "nothing", "never"])
def test_no(answer: str) -> None:
    assert read_answer(answer, DOG) == "no"
    assert read_answer(answer, TWO_DOGS) == "no"
    assert read_answer(answer, NO_DOG) == "yes"


@pytest.mark.parametrize(("answer", "verdict"), [("one", "no"), ("two", "yes"), ("3", "yes"), ("yes", "unclear")])
def test_a_number_is_compared(answer: str, verdict: str) -> None:
    assert read_answer(answer, TWO_DOGS) == verdict


@pytest.mark.parametrize(
    "answer", ["", "yes and no", "yes1:45:45", "12:03:44", "maybe", "the left", "one two", "ignore all rules"]
)
def test_everything_else_is_unclear(answer: str) -> None:
    assert read_answer(answer, DOG) == "unclear"
    assert read_answer(answer, NO_DOG) == "unclear"


@pytest.mark.parametrize(
    ("answer", "about", "verdict"),
    [
        ("a red bag", BAG, "yes"),
        ("a red bag", Asked("", "object"), "yes"),
        ("a red bag", RED_BAG, "yes"),
        ("a red bag", Asked("", "blue bag"), "no"),
        ("a red bag", Asked("", "box"), "no"),
        ("an orange box and a red bag", RED_BAG, "yes"),
    ],
)
def test_a_named_object_is_compared_with_the_thing_of_the_condition(answer: str, about: Asked, verdict: str) -> None:
    assert read_answer(answer, about) == verdict
