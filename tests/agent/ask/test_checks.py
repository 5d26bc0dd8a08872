"""Answers of the wrong type are refused before they are shown, and times that no picture has are marked."""

from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ask.checks import CHECKED, checked, mark, type_problem, unseen_times
from agent.ask.question import Evidence, Question, Seen, Step
from agent.errors import NoAnswer
from agent.reading.types import KINDS, Kind, Reading
from tests.support.agents import START  # Sunday 2026-11-22, 16:04:05 UTC


@pytest.mark.parametrize(
    ("kind", "text", "why"),
    [
        ("count", "left", "a number, and is a side"),
        ("count", "On the left side.", "a number, and is a side"),
        ("count", "at 14:02", "a number, and is a time"),
        ("count", "The car is red.", "a number, and does not"),
        ("existence", "3", "yes or no, and is a number"),
        ("existence", "14:02:10", "yes or no, and is a time"),
        ("state", "right", "yes or no, and is a side"),
        ("when", "Yes.", "a time, and is yes or no"),
        ("first", "links", "a time, and is a side"),
        ("last", "It is the red car", "a time, and does not"),
        ("duration", "no", "how long, and is yes or no"),
        ("duration", "The red car", "how long, and does not"),
        ("where", "two", "a place, and is a number"),
        ("where", "**Yes**", "a place, and is yes or no"),
        ("order", "3", "which came first, and is a number"),
    ],
)
def test_answers_of_the_wrong_type(kind: Kind, text: str, why: str) -> None:
    assert type_problem(kind, text) == f"it should say {why}"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("count", "3"), ("count", "Two cars came."), ("count", "None."), ("count", "I cannot tell."),
        ("count", "A dog came once."),
        ("count", "Es kamen drei Autos."), ("count", "Ningún coche."), ("count", "Plusieurs voitures."), ("count", "Several."),
        ("count", "Keine."), ("existence", "Yes, at 14:02."), ("existence", "A man came."), ("existence", "Nein."),
        ("when", "At 14:02."), ("when", "This morning."), ("when", "It never came."), ("when", "vor zehn Minuten"),
        ("when", "hace cinco minutos"), ("last", "hier soir"), ("duration", "All day."), ("duration", "About two minutes."),
        ("duration", "unclear"), ("where", "left"), ("where", "At the gate, at 14:02."), ("order", "The dog."),
        ("order", "before"), ("describe", "red"), ("describe", "3 red bags"), ("present", "left"), ("overview", "7"),
    ],
)  # fmt: skip
def test_answers_that_fit(kind: Kind, text: str) -> None:
    assert type_problem(kind, text) is None


@given(st.sampled_from(KINDS), st.text())
def test_any_text_is_judged(kind: Kind, text: str) -> None:
    assert type_problem(kind, text) is None or kind in CHECKED


SEEN = Seen((Evidence(1, "door", START, 0.3, "relevant"),), 1, START, START)


def check(kind: Kind, *pieces: str | Step | Seen) -> AsyncGenerator[str | Step | Seen, None]:
    async def stream() -> AsyncGenerator[str | Step | Seen, None]:
        for piece in pieces:
            yield piece

    return checked(stream(), Reading(kind), Question("What came?", ("door",)), SEEN, lambda camera: "UTC")


async def test_a_checked_answer_is_held_back_until_it_is_whole() -> None:
    refused = check("count", Step("looks"), "le", "ft")
    assert await anext(refused) == Step("looks")
    with pytest.raises(NoAnswer, match="does not fit the question: it should say a number, and is a side"):
        await anext(refused)
    assert [piece async for piece in check("count", "T", "wo.")] == ["T", "wo."]
    assert [piece async for piece in check("present", "le", "ft")] == ["le", "ft"]


async def test_a_time_that_no_picture_has_is_marked_in_the_answer() -> None:
    said = "It came at 16:04:05 and 03:33:33."
    assert [piece async for piece in check("present", said)] == [
        said, "\n\n(no picture that was looked at is from 03:33:33.)",
    ]  # fmt: skip
    later = replace(SEEN, evidence=(replace(SEEN.evidence[0], time=START - 12 * 3600 - 1832),))
    assert [piece async for piece in check("when", later, "It came at 03:33:33.")] == [later, "It came at 03:33:33."]


@pytest.mark.parametrize(
    ("text", "unseen"),
    [
        ("It came at 16:04:05.", []),
        ("It came at 16:04:06.", []),  # a second of rounding
        ("It came at 16:04:09 and at 03:33:33.", ["16:04:09", "03:33:33"]),
        ("It came at 03:33:33, yes, 03:33:33.", ["03:33:33"]),
        ("It came at 16:04, 16:05.", []),
        ("It came at 4:04 pm.", []),
        ("It came at 4:04 am.", ["4:04 am"]),
        ("Between 16:00 and 16:30", []),
        ("Between 12:00 and 13:30", ["12:00", "13:30"]),
        ("At 09:15, as you asked.", []),
        ("In the ratio 3:2, version 1.2:30, at 25:99 or 12:345", []),
        ("23:59:59", ["23:59:59"]),
        ("nothing", []),
    ],
)
def test_times_that_no_picture_has(text: str, unseen: list[str]) -> None:
    found = unseen_times(
        text, [(START, "door"), (START + 10, "yard")], ["What was there at 9:15?"], lambda camera: "UTC"
    )
    assert found == unseen


def test_times_are_those_of_each_cameras_zone() -> None:
    zones = {"door": "Europe/Zurich", "yard": "Asia/Tokyo"}
    seen = [(START, "door"), (START, "yard")]
    assert unseen_times("17:04:05 and 01:04:05 and 16:04:05", seen, (), zones.__getitem__) == ["16:04:05"]
    midnight = [(START - 16 * 3600 - 4 * 60 - 5, "door")]
    assert unseen_times("23:59", midnight, (), lambda camera: "UTC") == []  # a minute before midnight


def test_marks() -> None:
    assert mark([]) == ""
    assert mark(["03:33:33", "04:44"]) == "no picture that was looked at is from 03:33:33 or 04:44"
