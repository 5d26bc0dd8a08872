"""Requests are parsed into questions, and wrong ones are refused with the name of the field."""

import json

import pytest

from agent.ask.request import parse_moment, parse_request
from agent.errors import BadRequest

ASKED = {"model": "vilamp", "messages": [{"role": "user", "content": "Who came?"}]}


def body(**fields: object) -> bytes:
    return json.dumps({**ASKED, **fields}).encode()


def test_the_last_user_message_is_the_question() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "user", "content": [{"type": "text", "text": " second "}, {"type": "text", "text": "part"}]},
    ]
    assert parse_request(body(messages=messages)).question() == "second \npart"


def test_what_was_said_before_the_question_is_the_newest_that_fits() -> None:
    said = [{"role": "user" if n % 2 == 0 else "assistant", "content": f"turn {n}"} for n in range(13)]
    earlier = parse_request(body(messages=[{"role": "system", "content": "Be brief."}, *said])).earlier()
    assert [each.text for each in earlier] == [f"turn {n}" for n in range(4, 12)]
    assert [each.role for each in earlier][:2] == ["user", "assistant"]
    long = [{"role": "user", "content": "x" * 5000}, {"role": "assistant", "content": "y" * 4000}, said[0]]
    assert [each.role for each in parse_request(body(messages=long)).earlier()] == ["assistant"]
    assert parse_request(body()).earlier() == ()


def test_fields_of_the_format_that_do_not_apply_are_accepted() -> None:
    asked = parse_request(body(top_p=0.3, seed=1, user="me", presence_penalty=0, response_format={"type": "text"}, n=1))
    assert asked.question() == "Who came?"
    assert parse_request(body(max_tokens=5)).max_new_tokens() == 5
    assert parse_request(body(max_tokens=5, max_completion_tokens=7)).max_new_tokens() == 7


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"content": "no role"}]}, "messages.0.role"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": float("nan")}, "body"),
        ({"n": 2}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"camera": 5}, "camera"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, object], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_request(body(**fields))
    assert caught.value.status == 400
    assert (caught.value.param or "body").startswith(param)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_body_that_is_not_a_request_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_request(raw)


def test_pictures_in_a_message_are_refused() -> None:
    picture = {"type": "image_url", "image_url": {"url": "http://example.com/x.png"}}
    text = {"type": "text", "text": "What is this?"}
    with pytest.raises(BadRequest, match="'image_url' are not taken: send the question as text"):
        parse_request(body(messages=[{"role": "user", "content": [picture, text]}])).question()
    earlier = [{"role": "user", "content": [picture, text]}, {"role": "user", "content": [text]}]
    assert parse_request(body(messages=earlier)).question() == "What is this?"


@pytest.mark.parametrize("content", ["", "  \n", None, []])
def test_an_empty_question_is_refused(content: object) -> None:
    with pytest.raises(BadRequest, match="empty"):
        parse_request(body(messages=[{"role": "user", "content": content}])).question()


def test_cameras_are_named_in_one_field_without_repetitions() -> None:
    assert parse_request(body()).named_cameras() == ()
    assert parse_request(body(camera="door")).named_cameras() == ("door",)
    assert parse_request(body(cameras=["b", "a", "b"])).named_cameras() == ("b", "a")
    for fields in ({"camera": "a", "cameras": ["a"]}, {"cameras": []}):
        with pytest.raises(BadRequest):
            parse_request(body(**fields)).named_cameras()


def test_moments_are_parsed() -> None:
    assert parse_moment(None, "UTC", "after") is None
    assert parse_moment(1795364645, "UTC", "after") == 1795364645
    assert parse_moment("2026-11-22T17:04:05+01:00", "UTC", "after") == 1795363445
    assert parse_moment("2026-11-22T17:04:05", "Europe/Zurich", "after") == 1795363445
    assert parse_moment("2026-11-22T16:04:05Z", "Europe/Zurich", "after") == 1795363445
    for wrong in ("yesterday", "", "2026-13-01", float("inf")):
        with pytest.raises(BadRequest) as caught:
            parse_moment(wrong, "UTC", "before")
        assert caught.value.param == "before"
