"""Errors of requests: exceptions with an HTTP status and a message that says what to do.

Each becomes the error body that OpenAI clients understand: `{"error": {"message", "type", "param", "code"}}`.
"""

import math
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from streaming.redact import redact_text

MAX_LISTED = 50  # camera names in an error message
MAX_SHOWN = 60  # characters of a caller's text that an error message repeats


def shown(word: str, most: int = MAX_SHOWN) -> str:
    """Return a caller's text as an error message may repeat it: printable, on one line, cut to `most` characters."""
    cut = word if len(word) <= most else word[:most] + "..."
    return "".join(character if character.isprintable() else "?" for character in cut)


class Problem(Exception):
    """A request that cannot be served. `message` is written for the caller."""

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, headers: dict[str, str] | None = None) -> None:
        message = redact_text(message)  # a library's message may hold an address with its password
        message = message.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")  # no lone surrogates
        super().__init__(message)
        self.message = message
        self.param = param
        self.headers = headers or {}

    def body(self) -> dict[str, dict[str, Any]]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        return JSONResponse(self.body(), status_code=self.status, headers=self.headers)


class BadRequest(Problem):
    """The request is malformed."""

    status, type, code = 400, "invalid_request_error", "invalid_request"


class QuestionTooLong(Problem):
    """The question has more characters than the limit."""

    status, type, code = 413, "invalid_request_error", "question_too_long"


class NotAllowed(Problem):
    """The token is missing or unknown (status 401), or does not have the required scope (403)."""

    status, type, code = 401, "authentication_error", "invalid_token"

    def __init__(self, message: str, *, status: int = 401, headers: dict[str, str] | None = None) -> None:
        super().__init__(message, headers=headers)
        self.status = status
        if status == 403:
            self.type, self.code = "permission_error", "wrong_scope"
        else:
            self.headers.setdefault("WWW-Authenticate", "Bearer")


class NotFound(Problem):
    """What the request names does not exist."""

    status, type, code = 404, "invalid_request_error", "not_found"


class UnknownCamera(NotFound):
    """No camera with this name is configured, has sent a frame, or has stored frames."""

    code = "camera_not_found"

    def __init__(self, camera: str, known: tuple[str, ...]) -> None:
        names = ", ".join(known[:MAX_LISTED]) if known else "none yet"
        names += f" and {len(known) - MAX_LISTED} more" if len(known) > MAX_LISTED else ""
        super().__init__(f"There is no camera '{shown(camera)}'. Known cameras: {names}.", param="camera")


class UnknownModel(NotFound):
    """The model named in the request is not loaded."""

    code = "model_not_found"


class NoFrames(Problem):
    """No frame is stored in the period of the request."""

    status, type, code = 422, "invalid_request_error", "no_frames"

    def __init__(self, message: str, searched: dict[str, Any] | None = None) -> None:
        """searched: the fields `scope` and `coverage` that an answer would have."""
        super().__init__(message)
        self.searched = searched

    def body(self) -> dict[str, dict[str, Any]]:
        return super().body() | ({"vilamp": self.searched} if self.searched else {})


class UnclearScope(Problem):
    """The words of a question for cameras or times cannot be followed."""

    status, type, code = 422, "invalid_request_error", "unclear_scope"


class NotEncodedYet(Problem):
    """Frames are stored, but the encoder has not reached any of them."""

    status, type, code = 503, "server_error", "not_encoded_yet"

    def __init__(self, num_frames: int) -> None:
        super().__init__(
            f"{num_frames} frame{' is' if num_frames == 1 else 's are'} remembered but not yet encoded; "
            "ask again in a few seconds.",
            headers={"Retry-After": "2"},
        )


class TooLarge(Problem):
    """The request body is larger than the limit."""

    status, type, code = 413, "invalid_request_error", "request_too_large"


class UnsupportedMedia(Problem):
    """The content type, character set or content encoding of the request body is not supported."""

    status, type, code = 415, "invalid_request_error", "unsupported_media_type"


class TooSlow(Problem):
    """The request body did not arrive in time."""

    status, type, code = 408, "invalid_request_error", "request_timeout"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The request did not arrive within {seconds:g} s.", headers={"Connection": "close"})


class Busy(Problem):
    """As many requests of one kind are in progress as the limit allows."""

    status, type, code = 429, "rate_limit_error", "busy"

    def __init__(self, retry_after_s: float, why: str = "Too many questions at once") -> None:
        seconds = max(1, math.ceil(retry_after_s))
        super().__init__(f"{why}; try again in {seconds} s.", headers={"Retry-After": str(seconds)})


class TooManyGuesses(Problem):
    """One address has sent too many unknown tokens, which may be an attempt to guess one."""

    status, type, code = 429, "rate_limit_error", "too_many_wrong_tokens"

    def __init__(self, retry_after_s: float) -> None:
        seconds = max(1, math.ceil(retry_after_s))
        super().__init__(
            f"Too many wrong tokens from this address; try again in {seconds} s.",
            headers={"Retry-After": str(seconds)},
        )


class UnknownRule(NotFound):
    """No rule has this name."""

    code = "rule_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no rule '{shown(name)}'; GET /v1/rules lists the rules.", param="name")


class RuleConflict(Problem):
    """The rule cannot be created, changed or removed this way."""

    status, type, code = 409, "invalid_request_error", "rule_conflict"


class StorageFailed(Problem):
    """Data cannot be written or read, because the disk is full or failing."""

    status, type, code = 503, "server_error", "storage_failed"


class DryRunBusy(Problem):
    """Another dry run of a rule is in progress."""

    status, type, code = 429, "rate_limit_error", "busy"

    def __init__(self) -> None:
        super().__init__("Another rule is being tried; wait for it to end.", headers={"Retry-After": "10"})


class AnswerTimeout(Problem):
    """An answer took longer than the configured limit."""

    status, type, code = 503, "server_error", "timeout"


class ModelFailed(Problem):
    """The model failed to compute an answer; the log says why."""

    status, type, code = 503, "server_error", "model_failed"


class PicturesStayHere(Problem):
    """A camera's egress setting forbids sending its pictures to the remote answerer (a model on another server)."""

    status, type, code = 403, "permission_error", "egress_refused"


class AnswererAway(Problem):
    """The remote answerer cannot be reached, is overloaded, or closed the connection."""

    status, type, code = 503, "server_error", "answerer_away"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"Retry-After": "5"})


class AnswererRefused(Problem):
    """The remote answerer rejected the question, or does not speak the protocol."""

    status, type, code = 502, "server_error", "answerer_refused"


class AgentStopping(Problem):
    """The agent is shutting down. Answers in progress end with this error."""

    status, type, code = 503, "server_error", "stopping"

    def __init__(self) -> None:
        super().__init__("The agent is being stopped: ask again once it runs.", headers={"Retry-After": "5"})


class NoAnswer(Problem):
    """The answerer returned no readable text, or refused to answer; the message says why."""

    status, type, code = 502, "server_error", "no_answer"


class EraseUnfinished(Problem):
    """An erasure has begun, but the disk failed. The agent completes it later without another request."""

    status, type, code = 503, "server_error", "erase_unfinished"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"Retry-After": "5"})


async def respond(request: Request, problem: Exception) -> Response:
    """Return the error response for any exception. Registered as Starlette's exception handler."""
    return (
        problem.response()
        if isinstance(problem, Problem)
        else Problem("The server failed; its log says why.").response()
    )
