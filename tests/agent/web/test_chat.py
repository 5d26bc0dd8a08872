"""Answers are written in the OpenAI chat-completions format."""

from agent.ask.question import Answer, Evidence, Finished, Seen
from agent.web.openai import Envelope, citation
from agent.web.streams import sse


def test_a_completion_carries_text_citations_usage_and_the_extension() -> None:
    boxes = ((0.125, 0.25, 0.5, 1.0),)
    evidence = Evidence(frame_id=7, camera="door", time=12.5, score=0.123456, kind="relevant", boxes=boxes)
    finished = Finished("stop", ("2 s of video so far",), {"embed": 1.5, "total": 9.0}, 100, 3)
    answer = Answer(Seen((evidence,), 5, 10.0, 14.0), finished, ["a ", "dog"])
    completed = Envelope("id", 1, "m").completion(answer, [citation(evidence, "/u")])
    assert completed["choices"][0]["message"]["content"] == "a dog"
    assert completed["choices"][0]["message"]["annotations"] == [
        {
            "type": "frame_citation", "frame_id": 7, "camera": "door", "time": 12.5, "score": 0.1235,
            "kind": "relevant", "metadata": {}, "boxes": boxes, "url": "/u",
        }
    ]  # fmt: skip
    assert completed["usage"] == {"prompt_tokens": 100, "completion_tokens": 3, "total_tokens": 103}
    assert completed["vilamp"]["notes"] == ["2 s of video so far"]
    assert completed["vilamp"]["timings_ms"] == {"embed": 1.5, "total": 9.0}


def test_an_event_is_one_line() -> None:
    event = sse({"a": "two\nlines", "b": "ü"})
    assert event == b'data: {"a":"two\\nlines","b":"\xc3\xbc"}\n\n'
