"""Questions about the present alone are told from all others by their words."""

import numpy as np
import pytest

from model.about_now import about_now
from model.world.questions import questions
from model.world.scene import Scene


@pytest.mark.parametrize(
    "question",
    [
        "what is here now?",
        "What's at the gate right now?",
        "tell me what you see at the moment",
        "How many people are in the shop currently?",
        "Is the door open at present?",
        "who is at the gate NOW",
    ],
)
def test_about_now(question: str) -> None:
    assert about_now(question)


@pytest.mark.parametrize(
    "question",
    [
        "what is at the gate?",  # says nothing of when
        "did a dog come?",
        "what has come until now?",
        "How many cars came up to now?",
        "what was here just now?",
        "Is the car still there now?",
        "where is the red box now?",  # that is where it was seen last
        "what is different now?",
        "Hasn't the truck left by now?",
        "is it darker now than before?",
        "what is new at the moment?",
        "how long has the bag been there now?",
        "do you know the colour of the bag?",  # "now" inside a word
        "",
    ],
)
def test_about_more_than_now(question: str) -> None:
    assert not about_now(question)


def test_of_all_families_only_the_present_is_about_now() -> None:
    asked = [
        question
        for seed in range(12)
        for split in ("train", "eval")
        for question in questions(
            Scene.from_seed(seed, duration_s=300, split=split, density=2.0), 0.0, np.arange(0.0, 280.0 + seed),
            np.random.default_rng(seed), split,
        )
    ]  # fmt: skip
    assert {question.family for question in asked} >= {"present", "when", "count", "order", "left_behind"}
    assert all(about_now(question.text) == (question.family == "present") for question in asked)
