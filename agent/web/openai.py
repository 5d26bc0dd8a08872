"""Builds response bodies in OpenAI's chat-completions format: one JSON body for an answer, or the chunks of a stream.

Two fields are additions to that format: `annotations` lists the frames that an answer cites, and `vilamp` has the
number of frames searched, notes about the answer, and timings.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from agent.ask.coverage import scope_json
from agent.ask.question import Answer, Evidence, Finished, Seen, SeenVisit
from agent.ask.understanding import reading_json

Json = dict[str, Any]


def citation(evidence: Evidence, url: str) -> Json:
    """Return the annotation that cites one frame of an answer's evidence. url: address of the frame's picture."""
    return {"type": "frame_citation", **asdict(evidence), "score": round(evidence.score, 4), "url": url}


def visits_json(visits: Sequence[SeenVisit]) -> list[Json]:
    """Return the JSON field `visits` of an answer or of a timeline."""
    return [asdict(visit) for visit in visits]


def _usage(finished: Finished) -> Json:
    prompt, completion = finished.prompt_tokens, finished.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def extension(seen: Seen, finished: Finished, steps: Sequence[str] = ()) -> Json:
    """Return the `vilamp` object, which holds the fields that OpenAI's format does not have.

    steps: what was done for the answer, in order.
    """
    return {
        "frames": seen.num_frames,
        "oldest": seen.oldest,
        "newest": seen.newest,
        "notes": list(finished.notes),
        "timings_ms": finished.timings_ms,
        "visits": visits_json(seen.visits),
        "steps": list(steps),
        **scope_json(finished.searched),
        **reading_json(finished.reading),
    }


@dataclass(frozen=True, slots=True)
class Envelope:
    """Builds the bodies of one completion. Its attributes are the fields that all of them share."""

    id: str
    created: int
    model: str

    def completion(self, answer: Answer, annotations: Sequence[Json]) -> Json:
        """Return the body of an answer that is not streamed."""
        message = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": list(annotations)}
        reason = answer.finished.finish_reason
        return {
            **self._head("chat.completion"),
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
            "usage": _usage(answer.finished),
            "vilamp": extension(answer.seen, answer.finished, answer.steps),
        }

    def chunk(self, delta: Json, finish_reason: str | None = None) -> Json:
        """Return one chunk of a streamed answer. delta: what the chunk adds to the message."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def usage_chunk(self, finished: Finished) -> Json:
        """Return the last chunk of a stream, which has the token counts."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": _usage(finished)}

    def _head(self, kind: str) -> Json:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}
