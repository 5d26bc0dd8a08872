"""Questions about the present only are recognised by their wording."""

import numpy as np
import pytest

from model.about_now import about_now
from model.world.questions import questions
from model.world.scene import Scene


@pytest.mark.parametrize(
    "question",
    [
        "what is here now?",
        "What\u2019s at the gate right now?",
        "tell me what you see at the moment",
        "How many people are in the shop currently?",
        "Is anybody currently in the yard?",
        "Is the door open at present?",
        "is the door closed now",
        "who is at the gate NOW",
        "What colour is the car at this very moment?",
        "Please say what you see  right\nnow in the yard",
        "who's there now!",
    ],
)
def test_questions_about_now_are_recognised(question: str) -> None:
    assert about_now(question)


@pytest.mark.parametrize(
    "question",
    [
        "what is at the gate?",  # names no time
        "did a dog come now?",
        "what is here until now?",
        "How many cars are there up to now?",
        "what is here just now?",
        "Is the car still there now?",
        "where is the red box now?",  # asks for the last place it was seen
        "what is different now?",
        "Isn't it what hasn\u2019t left right now?",
        "is it darker now than at noon?",
        "what is new at the moment?",
        "how long is the bag there now?",
        "do you know the colour of the bag?",  # "now" inside a word
        "what happened at the moment the alarm rang?",
        "What colour is the car at the moment the man falls?",
        "Now tell me who is at the door",
        "Okay now who is the one that took the parcel?",
        "who is it? tell me right now",
        "I need to know now: who is at the gate?",
        "Now that I am home, who is there?",
        "How many people passed between 3 pm and now?",
        "What is it that happened, and now?",
        "who entered the room and is in it now?",
        "Describe the whole day, it is over now",
        "Which people are usually here now?",
        "Is the bike gone now?",
        "Is he back now?",
        "How often does the person currently at the desk come?",
        "Is it the same man now?",
        "wasnt it there now",
        "now",
        "",
    ],
)
def test_questions_about_the_past_are_not_about_now(question: str) -> None:
    assert not about_now(question)


def test_only_the_present_family_is_about_now() -> None:
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
