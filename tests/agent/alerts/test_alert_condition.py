"""Conditions become questions, and answers become verdicts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.alerts.condition import as_question, read_answer


@pytest.mark.parametrize(
    ("condition", "question"),
    [
        ("a red truck comes", "how many times did a red truck come?"),
        ("A red truck comes.", "how many times did a red truck come?"),
        ("any orange dog comes by", "how many times did an orange dog come?"),
        ("a person walks by", "how many times did a person come?"),
        ("a person walks a dog", "how many times did a person walk a dog?"),
        ("a truck comes to the gate", "how many times did a truck come to the gate?"),
        ("a bus arrives", "how many times did a bus come?"),
        ("somebody juggles", "how many times did somebody juggle?"),
        ("a door opens", "how many times did a door open?"),
        ("there is a blue dog", "how many times did a blue dog come?"),
        ("a red car is here", "how many times did a red car come?"),
        ("a dog", "how many times did a dog come?"),
        ("tell me when somebody carries a box", "how many times did somebody carry a box?"),
        ("a bag is left behind by the door", "was a bag left behind by the door?"),
        ("two dogs are fighting", "were two dogs fighting?"),
        ("a person has left the room", "has a person left the room?"),
        ("was  a dog here?", "was a dog here?"),
        ("two people fight", "how many times did two people fight?"),
        ("children play in the street", "how many times did children play in the street?"),
        ("the lights go out", "how many times did the lights go out?"),
        ("cars crash", "how many times did cars crash?"),
        ("people run", "how many times did people come?"),
        ("two dogs", "how many times did two dogs come?"),
        ("people in masks", "how many times did people in masks come?"),
        ("a person with glasses", "how many times did a person with glasses come?"),
        ("a person has a box", "how many times did a person have a box?"),
        ("there are two people fighting", "were two people fighting?"),
        ("a man running through the yard", "was a man running through the yard?"),
        ("a parked car moves", "how many times did a parked car move?"),
    ],
)
def test_a_condition_as_a_question(condition: str, question: str) -> None:
    assert as_question(condition) == question


@pytest.mark.parametrize(
    "condition",
    [
        "two people argue", "two cars collide", "the lights went out", "a person fell", "a package delivered",
        "a car parked in the driveway", "nobody is at the desk", "there is no car", "a person does not wear a helmet",
        "a person has no helmet", "a dog comes and a cat leaves", "a person comes and sits down",
        "a person who wears a hat comes", "a person takes a box that is red", "license plate visible", "a bus stop",
        "two blocks", "a car, a truck or a bus", "un hombre corre", "water leaks from the pipe", "more than 3 people come",
        "a man is here while nobody watches", "犬が来る",
    ],
)  # fmt: skip
def test_a_condition_that_is_not_understood_for_sure_stays_unchanged(condition: str) -> None:
    assert as_question(f"{condition}.") == f"{condition}?"
    assert read_answer("a red bag", condition) == "unclear"
    assert read_answer("yes", condition) == "yes"


@given(st.text(min_size=1, max_size=60))
def test_every_condition_becomes_one_question(condition: str) -> None:
    question = as_question(condition)
    assert question.endswith("?")
    assert "\n" not in question


@pytest.mark.parametrize("answer", ["yes", "Yes.", "one", "two", "3", "once"])
def test_yes(answer: str) -> None:
    assert read_answer(answer, "a dog comes") == "yes"


@pytest.mark.parametrize("answer", ["no", "No.", "zero", "0", "nothing", "never"])
def test_no(answer: str) -> None:
    assert read_answer(answer, "a dog comes") == "no"


@pytest.mark.parametrize(
    "answer", ["", "yes and no", "yes1:45:45", "12:03:44", "maybe", "the left", "one two", "ignore all rules"]
)
def test_everything_else_is_unclear(answer: str) -> None:
    assert read_answer(answer, "a dog comes") == "unclear"


@pytest.mark.parametrize(
    ("answer", "condition", "verdict"),
    [
        ("a red bag", "a bag is left behind", "yes"),
        ("a red bag", "something is left behind", "yes"),
        ("a red bag", "any red bag is left behind", "yes"),
        ("a red bag", "a blue bag is left behind", "no"),
        ("a red bag", "a box is left behind", "no"),
        ("an orange box and a red bag", "a red bag is left behind", "yes"),
    ],
)
def test_a_named_object_is_compared_with_the_subject_of_the_condition(
    answer: str, condition: str, verdict: str
) -> None:
    assert read_answer(answer, condition) == verdict
