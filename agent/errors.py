"""What can go wrong with a request, as exceptions that know their HTTP status and say what to do about it.

Each becomes the error body that OpenAI clients understand: `{"error": {"message", "type", "param", "code"}}`.
"""

import math

from starlette.requests import Request
from starlette.responses import Response

from agent.untrusted.wire import JsonResponse, shown
from streaming.redact import redact_text

MAX_NAMED = 50  # cameras that an error lists


class Problem(Exception):
    """A request that cannot be served; `message` is for the person who sent it."""

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, headers: dict[str, str] | None = None) -> None:
        message = redact_text(message)  # what a library says may hold an address with its password
        super().__init__(message)
        self.message = message
        self.param = param
        self.headers = headers or {}

    def body(self) -> dict[str, dict[str, str | None]]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        return JsonResponse(self.body(), status_code=self.status, headers=self.headers)


class BadRequest(Problem):
    """The asker sent something that cannot be understood."""

    status, type, code = 400, "invalid_request_error", "invalid_request"


class QuestionTooLong(Problem):
    """The asker wrote more than the limit."""

    status, type, code = 413, "invalid_request_error", "question_too_long"


class NotAllowed(Problem):
    """The caller's token is missing, wrong or not meant for this."""

    status, type, code = 401, "authentication_error", "invalid_token"

    def __init__(self, message: str, *, status: int = 401, headers: dict[str, str] | None = None) -> None:
        super().__init__(message, headers=headers)
        self.status = status
        if status == 403:
            self.type, self.code = "permission_error", "wrong_scope"
        else:
            self.headers.setdefault("WWW-Authenticate", "Bearer")


class NotFound(Problem):
    """The caller asked for something that is not there."""

    status, type, code = 404, "invalid_request_error", "not_found"


class UnknownCamera(NotFound):
    """The asker named a camera that nobody configured or published."""

    code = "camera_not_found"

    def __init__(self, camera: str, known: tuple[str, ...]) -> None:
        names = ", ".join(known[:MAX_NAMED]) if known else "none yet"
        names += f" and {len(known) - MAX_NAMED} more" if len(known) > MAX_NAMED else ""
        super().__init__(f"There is no camera '{shown(camera)}'. Known cameras: {names}.", param="camera")


class UnknownModel(NotFound):
    """The asker named a model that is not loaded."""

    code = "model_not_found"


class NoFrames(Problem):
    """Nothing is remembered in the window that was asked about."""

    status, type, code = 422, "invalid_request_error", "no_frames"


class NotEncodedYet(Problem):
    """Frames are remembered but the encoder has not reached any of them."""

    status, type, code = 503, "server_error", "not_encoded_yet"

    def __init__(self, num_frames: int) -> None:
        super().__init__(
            f"{num_frames} frame{' is' if num_frames == 1 else 's are'} remembered but not yet encoded; "
            "ask again in a few seconds.",
            headers={"Retry-After": "2"},
        )


class TooLarge(Problem):
    """The request body is above the limit."""

    status, type, code = 413, "invalid_request_error", "request_too_large"


class UnsupportedMedia(Problem):
    """The request body has a type, a character set or a packing that is not read."""

    status, type, code = 415, "invalid_request_error", "unsupported_media_type"


class TooSlow(Problem):
    """The request body did not arrive in time."""

    status, type, code = 408, "invalid_request_error", "request_timeout"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The request did not arrive within {seconds:g} s.", headers={"Connection": "close"})


class Busy(Problem):
    """As many requests of one kind as are allowed are in work or waiting."""

    status, type, code = 429, "rate_limit_error", "busy"

    def __init__(self, retry_after_s: float, why: str = "Too many questions at once") -> None:
        seconds = max(1, math.ceil(retry_after_s))
        super().__init__(f"{why}; try again in {seconds} s.", headers={"Retry-After": str(seconds)})


class TooManyGuesses(Problem):
    """Tokens that are not known came from one address too often."""

    status, type, code = 429, "rate_limit_error", "too_many_wrong_tokens"

    def __init__(self, retry_after_s: float) -> None:
        seconds = max(1, math.ceil(retry_after_s))
        super().__init__(
            f"Too many wrong tokens from this address; try again in {seconds} s.",
            headers={"Retry-After": str(seconds)},
        )


class UnknownRule(NotFound):
    """The caller named a rule that there is none of."""

    code = "rule_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no rule '{shown(name)}'; GET /v1/rules lists those there are.", param="name")


class RuleConflict(Problem):
    """The rule cannot be made, changed or removed this way."""

    status, type, code = 409, "invalid_request_error", "rule_conflict"


class StorageFailed(Problem):
    """What was asked for cannot be written down, or not be read now: the disk is full or failing."""

    status, type, code = 503, "server_error", "storage_failed"


class DryRunBusy(Problem):
    """A rule is being tried already."""

    status, type, code = 429, "rate_limit_error", "busy"

    def __init__(self) -> None:
        super().__init__("Another rule is being tried; wait for it to end.", headers={"Retry-After": "10"})


class AnswerTimeout(Problem):
    """An answer took longer than the configured limit."""

    status, type, code = 503, "server_error", "timeout"


class ModelFailed(Problem):
    """The model could not compute an answer; the log says why."""

    status, type, code = 503, "server_error", "model_failed"


class PicturesStayHere(Problem):
    """A camera's egress rule does not let its pictures go to the server that answers."""

    status, type, code = 403, "permission_error", "egress_refused"


class AnswererAway(Problem):
    """The server that answers cannot be reached, is overloaded, or went away."""

    status, type, code = 503, "server_error", "answerer_away"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"Retry-After": "5"})


class AnswererRefused(Problem):
    """The server that answers was reached but does not take the question, or does not speak the protocol."""

    status, type, code = 502, "server_error", "answerer_refused"


class AgentStopping(Problem):
    """The agent is shutting down; a started answer ends with this."""

    status, type, code = 503, "server_error", "stopping"

    def __init__(self) -> None:
        super().__init__("The agent is being stopped: ask again once it runs.", headers={"Retry-After": "5"})


class NoAnswer(Problem):
    """Whoever answers said nothing that a reader sees, or would not answer; the message says why."""

    status, type, code = 502, "server_error", "no_answer"


class EraseUnfinished(Problem):
    """An erasure has begun, a disk refused, and it will be completed by itself."""

    status, type, code = 503, "server_error", "erase_unfinished"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"Retry-After": "5"})


async def respond(request: Request, problem: Exception) -> Response:
    """Starlette's exception handler for every Problem."""
    return (
        problem.response()
        if isinstance(problem, Problem)
        else Problem("The server failed; its log says why.").response()
    )
