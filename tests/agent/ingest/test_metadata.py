"""What a publisher tells beside its pictures: what may be kept, and with which frame it goes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import BadRequest
from agent.ingest.metadata import MAX_KEPT, MAX_METADATA_BYTES, MetadataHistory, check_metadata
from agent.untrusted.strict_json import parse_json


def nested(depth: int) -> Any:
    return {} if depth == 0 else {"a": nested(depth - 1)}


@pytest.mark.parametrize(
    "told", [{}, {"x": 1, "y": -2.5e300}, {"labels": ["hall", None, True]}, nested(8), {"é": "日本"}]
)
def test_what_may_be_kept(told: Any) -> None:
    assert check_metadata(told) == told


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ([1], "object"),
        (None, "object"),
        ("x", "object"),
        ({"x": float("nan")}, "not finite"),
        ({"x": [float("inf")]}, "not finite"),
        ({"x": 10**400}, "not finite"),
        (nested(9), "8 levels"),
        ({"x": "\ud800"}, "lone surrogate"),
        ({"\udfff": 1}, "lone surrogate"),
        ({"x": "y" * MAX_METADATA_BYTES}, "4096"),
    ],
)
def test_what_may_not(told: Any, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        check_metadata(told)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"x": 1' + "0" * 5000 + "}", b"\xff"])
def test_what_is_no_json(text: str | bytes) -> None:
    with pytest.raises(BadRequest):
        parse_json(text)


@given(st.text(max_size=40) | st.dictionaries(st.text(max_size=4), st.floats() | st.text(max_size=5)).map(json.dumps))
def test_parsing_raises_nothing_else(text: str) -> None:
    try:
        check_metadata(parse_json(text))
    except BadRequest:
        pass


def test_the_newest_at_or_before_a_frame_goes_with_it() -> None:
    told = MetadataHistory(max_age_s=3)
    told.add(10, {"x": "a"})
    told.add(12, {"x": "b"})
    assert [told.at(time) for time in (9, 11, 12, 15, 15.1)] == [{}, {"x": "a"}, {"x": "b"}, {"x": "b"}, {}]


def test_it_may_come_out_of_order_and_the_oldest_goes() -> None:
    told = MetadataHistory(max_age_s=0.5)
    for time in range(0, 2 * MAX_KEPT, 2):
        told.add(time, {"x": time})
    for time in range(1, 2 * MAX_KEPT, 2):
        told.add(time, {"x": time})
    assert [told.at(time)["x"] for time in range(MAX_KEPT, 2 * MAX_KEPT)] == list(range(MAX_KEPT, 2 * MAX_KEPT))
    assert [told.at(time) for time in range(MAX_KEPT)] == [{}] * MAX_KEPT


def test_what_a_wrong_clock_said_goes_when_the_clock_is_set_back() -> None:
    told = MetadataHistory(max_age_s=3)
    for time in range(MAX_KEPT):
        told.add(3600 + time, {"x": "an hour ahead"}, latest=3600 + time)
    told.add(10, {"x": "right"}, latest=12)
    assert told.at(11) == {"x": "right"}
    assert told.at(3600) == {}
