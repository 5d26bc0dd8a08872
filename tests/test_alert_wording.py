"""Conditions as questions, and answers as verdicts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.alerts.wording import as_question, read_answer


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
    ],
)
def test_a_condition_as_a_question(condition: str, question: str) -> None:
    assert as_question(condition) == question


@given(st.text(min_size=1, max_size=60))
def test_every_condition_is_one_question(condition: str) -> None:
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
def test_what_is_named_is_compared_with_what_the_condition_speaks_of(answer: str, condition: str, verdict: str) -> None:
    assert read_answer(answer, condition) == verdict
