"""Questions about now and questions answered in steps are recognised; plans have the right questions and verdicts."""

import numpy as np
import pytest

from agent.ask.reader import Plan, about_now, plan_of, singular
from model.world import phrases
from model.world.questions import questions
from model.world.scene import Scene

ORDERS = {
    "Did the red car come before or after the blue dog?": "before or after",
    "before or after the blue dog, when did the red car come?": "before or after",
    "please tell me: was the red car seen after or before the blue dog": None,
    "Did the red car come before the blue dog?": "before",
    "Was the red car here after the blue dog was?": "after",
    "have you seen the red car before the blue dog?": "before",
    "Which came first, the red car or the blue dog?": "first",
    "what was seen last, the red car or the blue dog?": "last",
    "who did you see first, the red car or the blue dog?": "first",
}
PLACES = {
    "In which room did you see the red ball?": "zone",
    "what zone was the red ball in?": "zone",
    "Where was the robot when it saw the red ball?": "zone",
    "where did I see a red ball?": "zone",
    "Where has the robot seen the red ball?": "zone",
    "Which camera saw the red ball?": "camera",
    "on which camera did you see the red ball?": "camera",
    "which camera was the red ball on?": "camera",
}


@pytest.mark.parametrize(("question", "kind"), ORDERS.items())
def test_questions_about_order(question: str, kind: str | None) -> None:
    assert plan_of(question) == (None if kind is None else Plan(kind, ("red car", "blue dog")))  # type: ignore[arg-type]


@pytest.mark.parametrize(("question", "kind"), PLACES.items())
def test_questions_about_places(question: str, kind: str) -> None:
    assert plan_of(question) == Plan(kind, ("red ball",))  # type: ignore[arg-type]


SIDES = {
    "where was the red ball?": "where",
    "Where did you see a red ball?": "where",
    "where in the picture was the red ball": "side",
    "Where in your view have you seen the red ball?": "side",
    "on which side did you see the red ball?": "side",
    "On what side of the image was the red ball?": "side",
}
EVER = {
    "did a red car ever come?": "red car",
    "Have you seen a red car?": "red car",
    "has a red car passed?": "red car",
    "did the red car drive past?": "red car",
    "was there any red car in the video?": "red car",
    "Were there any red cars so far?": "red car",
    "has there been a red car?": "red car",
    "tell me whether a red car came by": "red car",
    "did you see any people?": "person",
    "Did the kids come?": "kid",
    "were the people with a dog here?": "person with a dog",
    "were there any glasses?": "glasses",
    "was the bus here at all?": "bus",
    "did any green door open?": "green door",
}
ENDS = {
    "When was a red car last seen?": "last time",
    "at what time did you last see the red car?": "last time",
    "what was the last time a red car was seen?": "last time",
    "when is the last time that you saw any red car?": "last time",
    "when did the red car last come by?": "last time",
    "when did you first see a red car?": "first time",
    "what time was the red car first here?": "first time",
    "when was the first time a red car was here?": "first time",
}


@pytest.mark.parametrize(("question", "kind"), SIDES.items())
def test_questions_about_sides(question: str, kind: str) -> None:
    assert plan_of(question) == Plan(kind, ("red ball",))  # type: ignore[arg-type]


@pytest.mark.parametrize(("question", "thing"), EVER.items())
def test_questions_whether_a_thing_came(question: str, thing: str) -> None:
    assert plan_of(question) == Plan("ever", (thing,))


@pytest.mark.parametrize(("question", "kind"), ENDS.items())
def test_questions_about_first_and_last_times(question: str, kind: str) -> None:
    assert plan_of(question) == Plan(kind, ("red car",))  # type: ignore[arg-type]


COUNTS = {
    "How many times did a red car come?": "red car",
    "how often did you see the red car come by?": "red car",
    "tell me how often any red car was here": None,
    "tell me how many times a red car did come": "red car",
    "count how many times the green door did open": "green door",
    "how many times was the dog here so far?": "dog",
    "How many red cars came?": "red car",
    "how many boxes did you see?": "box",
    "how many people have been here in total?": "person",
    "how many buses passed by?": "bus",
    "how many people are here?": None,
    "how many people were here yesterday?": None,
    "how many cars and dogs came?": None,
    "how many wheels did the car have?": None,
    "how often does a dog come?": None,
    "how many times did it come?": None,
}


@pytest.mark.parametrize(("question", "thing"), COUNTS.items())
def test_questions_about_counts(question: str, thing: str | None) -> None:
    assert plan_of(question) == (None if thing is None else Plan("count", (thing,)))


def test_singulars() -> None:
    plurals = {
        "red cars": "red car", "boxes": "box", "buses": "bus", "people": "person", "dogs": "dog", "bicycles": "bicycle",
        "puppies": "puppy", "benches": "bench", "glass": "glass", "toys": "toy", "horses": "horse", "houses": "house",
        "vases": "vase", "cases": "case", "gas": "gas", "bus": "bus", "policemen": "policeman", "knives": "knife",
        "mice": "mouse", "classes": "class",
    }  # fmt: skip
    assert {each: singular(each) for each in plurals} == plurals


@pytest.mark.parametrize("split", ["train", "eval"])
def test_all_phrasings_of_the_drawn_world_are_read(split: str) -> None:
    for form in phrases.ORDER[split]:  # type: ignore[index]
        assert plan_of(form.format(a="red car", b="dog")) == Plan("before or after", ("red car", "dog")), form
    for form in phrases.COUNT[split]:  # type: ignore[index]
        assert plan_of(form.format(thing="dog", come="come")) == Plan("count", ("dog",)), form
        assert plan_of(form.format(thing="door", come="open")) == Plan("count", ("door",)), form
    for form in (*phrases.EXISTENCE[split], *phrases.LAST_SEEN[split]):  # type: ignore[index]
        plan = plan_of(form.format(thing="red person", come="come"))
        assert plan == Plan("last time" if "last" in form else "ever", ("red person",)), form
    for form in phrases.WHERE[split]:  # type: ignore[index]
        plan = plan_of(form.format(thing="box"))
        assert plan in (Plan("where", ("box",)), Plan("side", ("box",))), form
    for form in phrases.ROOM[split]:  # type: ignore[index]
        assert plan_of(form.format(thing="green door")) == Plan("zone", ("green door",)), form


@pytest.mark.parametrize(
    "question",
    [
        "did a dog come before noon?",
        "did the dog come before the evening?",
        "did a dog come after 14:00?",
        "was the dog here before?",
        "what came after the dog?",
        "who was here before the dog?",
        "did the dog come before or after the dog?",
        "did the first dog come before the second dog?",
        "did a truck or a car come before the dog?",
        "did the man leave after the car came?",
        "did the red car come before the dog and the box?",
        "where is the red ball?",
        "is there a dog?",
        "was the dog fed?",
        "did you see the man fall?",
        "did you see the dog eat?",
        "did you see the door close?",
        "when did you last see the car stop?",
        "did you see a car since monday?",
        "did you see a dog recently?",
        "where was the bag dropped?",
        "where was the bag stolen?",
        "on which side was the car hit?",
        "was there a dog in here?",
        "has there been any change?",
        "was there a problem?",
        "were there any accidents?",
        "where was the rover?",
        "was there trouble at the gate?",
        "did you see it?",
        "did you see the man with the dog leave?",
        "did a dog come at noon?",
        "was there a dog before the car?",
        "when did you see the dog?",
        "when was the last time?",
        "where were you?",
        "which room is empty?",
        "what room is this?",
        "in which room was it?",
        "which room is the ball in now?",
        "when did the red car come?",
        "how often did the red car come before the dog?",
        "did the red car come before the dog? And what colour was it?",
        "",
        "Was the purple dog gone after the green box came?",
        "Did the purple dog come before the green box left?",
        "did the man come before the car left?",
        "Did the purple dog never come before the green box?",
        "How many different dogs came?",
        "How many distinct people have been here?",
        "Which camera was the busiest?",
        "In which room was the robot?",
        "How many times was the dog alone?",
        "How many rooms have you seen?",
        "How many days passed?",
        "was the gate locked before the man came?",
        "was the car damaged after the truck came?",
        "was the door open before the dog came?",
        "how often was the door open?",
        "how many doors were open?",
        "how many times was the light on?",
        "in which room was the window open?",
        "in which room was the dog yesterday?",
        "in which room was the dog most often?",
        "which area has the most people come in?",
        "how many cars at once did you see?",
        "how many cars on average came?",
        "how many of the cars came?",
        "did the dog come after a while?",
        "did the dog come before the rain?",
        "how many people wearing hats came by the shop?",
    ],
)
def test_other_questions_have_no_plan(question: str) -> None:
    assert plan_of(question) is None


def test_verb_after_a_name_is_not_part_of_it() -> None:
    for question in (
        "Did you see a man argue?", "Did you see the dog yawn?", "Have you seen an old car swerve?",
        "How many times did you see the red truck overtake?", "When did you last see a person juggle?",
    ):  # fmt: skip
        assert plan_of(question) is None
    for question, thing in (
        ("Did you see the car door open?", "car door"),
        ("Did you see a man with a hat?", "man with a hat"),
    ):
        plan = plan_of(question)
        assert plan is not None
        assert plan.things == (thing,)


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
