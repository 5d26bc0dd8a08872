"""Response bodies of the OpenAI chat-completions format: an answer -> one JSON body, or the chunks of a stream.

Extension fields: `annotations` (the frames that an answer cites) and `vilamp` (frames searched, notes, timings).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from agent.ask.question import Answer, Evidence, Finished, Seen

Json = dict[str, Any]


def citation(evidence: Evidence, url: str) -> Json:
    """The annotation for one frame of an answer's evidence."""
    return {"type": "frame_citation", **asdict(evidence), "score": round(evidence.score, 4), "url": url}


def _usage(finished: Finished) -> Json:
    prompt, completion = finished.prompt_tokens, finished.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def extension(seen: Seen, finished: Finished) -> Json:
    """The `vilamp` object, for fields that OpenAI's format does not have."""
    return {
        "frames": seen.num_frames,
        "oldest": seen.oldest,
        "newest": seen.newest,
        "notes": list(finished.notes),
        "timings_ms": finished.timings_ms,
        "visits": [asdict(visit) for visit in seen.visits],
    }


@dataclass(frozen=True, slots=True)
class Envelope:
    """The fields shared by all bodies of one completion, and the bodies made with them."""

    id: str
    created: int
    model: str

    def completion(self, answer: Answer, annotations: Sequence[Json]) -> Json:
        """The body of an answer that is not streamed."""
        message = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": list(annotations)}
        reason = answer.finished.finish_reason
        return {
            **self._head("chat.completion"),
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
            "usage": _usage(answer.finished),
            "vilamp": extension(answer.seen, answer.finished),
        }

    def chunk(self, delta: Json, finish_reason: str | None = None) -> Json:
        """One chunk of a streamed answer."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def usage_chunk(self, finished: Finished) -> Json:
        """The chunk with the token counts, the last one of a stream."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": _usage(finished)}

    def _head(self, kind: str) -> Json:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}
