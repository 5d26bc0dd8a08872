"""A client of the agent's HTTP API, for the commands and the demo.

It sends questions to the endpoint that is compatible with OpenAI's API, and also reads the fields that the agent adds
to that format: evidence frames, notes and timings.
"""

import json
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx

CONNECT_TIMEOUT_S = 5.0
SILENCE_TIMEOUT_S = 45.0  # the server writes a comment line every 15 s while it works
UNLIMITED = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)  # for exports and erasures, which may take any time

# Exceptions raised by code that reads a response which does not have the format of the agent's responses
STRANGE = (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError)
_STEP = ": step:"  # the comment lines that say what is being done
_NO_AGENT = "the server is not a ViLaMP agent, or one of another version"


class ServerError(Exception):
    """The agent refused the request, failed, or cannot be reached. The message is the agent's own if it sent one."""

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class Citation:
    """A frame that an answer is based on."""

    frame_id: int
    camera: str
    time: float  # unix seconds
    score: float  # cosine similarity of the frame and the question
    kind: str  # "relevant", "recent" or "filling"
    url: str  # signed URL of the picture
    metadata: dict[str, Any] = field(default_factory=dict)  # what the publisher sent with the frame, such as a pose
    boxes: list[list[float]] = field(default_factory=list)  # [left, top, right, bottom] as shares of the picture


@dataclass(frozen=True, slots=True)
class Visit:
    """A stretch of time in which a camera's frames were relevant to the question. Times are unix seconds."""

    camera: str
    start: float
    peak: float
    end: float
    prominence: float  # how far relevance (a cosine similarity) rises above the frames around it
    strength: float  # prominence divided by the noise level of relevance at this camera
    is_clear: bool  # whether it is clearly stronger than the other visits of its camera
    frame_id: int  # the frame at its peak


@dataclass(slots=True)
class Reply:
    """An answer with its evidence."""

    text: str = ""
    finish_reason: str | None = None
    citations: list[Citation] = field(default_factory=list)
    num_frames: int = 0  # number of stored frames in the time window of the question
    notes: list[str] = field(default_factory=list)
    visits: list[Visit] = field(default_factory=list)  # by camera and time
    timings_ms: dict[str, float] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)  # what was done for the answer
    scope: dict[str, Any] = field(default_factory=dict)  # the cameras and times that were searched
    coverage: list[dict[str, Any]] = field(default_factory=list)  # what memory has of each camera in that time
    reading: dict[str, Any] = field(default_factory=dict)  # how the question was understood: kind, things, offers


class Client:
    """A client of one agent. A context manager; one thread at a time may use it. All methods raise ServerError."""

    def __init__(self, server: str, token: str | None, *, verify: ssl.SSLContext | bool = True) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        timeout = httpx.Timeout(SILENCE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        self._http = httpx.Client(base_url=server, headers=headers, timeout=timeout, verify=verify)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def ask(
        self, question: str, *, cameras: Sequence[str] = (), after: float | None = None, before: float | None = None,
        within: Mapping[str, float] | None = None, on_step: Callable[[str], object] | None = None,
        on_scope: Callable[[Mapping[str, Any]], object] = lambda scope: None,
    ) -> Iterator[str | Reply]:  # fmt: skip
        """Yield the pieces of the answer's text as they arrive, then the complete Reply. within: x, y and radius_m.

        on_step: called with each line that says what is being done for the answer. on_scope: called with the cameras
        and times that are searched, before the text.
        """
        body: dict[str, Any] = {"messages": [{"role": "user", "content": question}]}
        options = {"cameras": list(cameras) or None, "after": after, "before": before, "within": within}
        body |= {name: value for name, value in options.items() if value is not None}
        reply = Reply()
        for chunk in self.events("/v1/chat/completions", {**body, "stream": True}, on_step):
            with understood():
                is_new = not reply.scope
                piece = _fold(chunk, reply)
            if is_new and reply.scope:
                on_scope(reply.scope)
            if piece:
                yield piece
        yield reply

    def events(
        self, path: str, body: Mapping[str, Any], on_step: Callable[[str], object] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Send a POST and yield the server-sent events of its response, up to `[DONE]`. on_step: see `ask`.

        An error event raises ServerError.
        """
        with _failures(), self._http.stream("POST", path, json=body) as response:
            _check(response)
            for line in response.iter_lines():
                if on_step is not None and line.startswith(_STEP):
                    on_step(line.removeprefix(_STEP).strip())
                if not line.startswith("data:"):
                    continue  # a comment or an empty line has no event
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    return
                event = json.loads(data)
                if "error" in event:
                    raise ServerError(str(event["error"].get("message", "it failed")), code=event["error"].get("code"))
                yield event
        raise ServerError("the answer is incomplete: the server closed the stream early")

    def get_json(self, path: str) -> Any:
        """Send a GET for `path` and return the JSON of the response."""
        return self.send_json("GET", path)

    def health(self) -> dict[str, Any]:
        """Return the JSON of `GET /readyz`, which has a body with status 503, too."""
        with _failures():
            told = self._http.get("/readyz").json()
            if not isinstance(told["checks"], dict):
                raise TypeError("no checks")
            return dict(told)

    def send_json(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request with a JSON body and return the JSON of the response; None if it is empty.

        A DELETE has no timeout, because erasing may take any time.
        """
        with _failures():
            timeout = UNLIMITED if method == "DELETE" else self._http.timeout
            response = self._http.request(method, path, json=body, timeout=timeout)
            _check(response)
            return response.json() if response.content else None

    def download(self, path: str, target: Path) -> None:
        """Download the response for `path` into the file `target`. Has no timeout.

        Raises OSError if the file cannot be written.
        """
        with _failures(), self._http.stream("GET", path, timeout=UNLIMITED) as response:
            _check(response)
            with target.open("wb") as file:
                for chunk in response.iter_bytes():
                    file.write(chunk)

    def get_bytes(self, url: str) -> bytes:
        """Return the bytes of the picture at a signed URL.

        Only the path and the query of `url` are used, so that the token is never sent to another server. If the
        server's address has a path prefix (behind a proxy), `url` may contain that prefix too.
        """
        parts = urlsplit(url)
        prefix = self._http.base_url.path.rstrip("/")
        path = parts.path.removeprefix(prefix) if parts.path.startswith(f"{prefix}/v1/") else parts.path
        with _failures():
            response = self._http.get(f"{path}?{parts.query}")
            _check(response)
            return response.content


@contextmanager
def _failures() -> Iterator[None]:
    """Context manager: replace the errors that httpx raises in the block by ServerErrors that advise the user."""
    try:
        yield
    except httpx.ConnectError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            advice = "give the server's --data-dir, or a certificate that this machine trusts"
            raise ServerError(f"the server's certificate is not trusted here: {advice}") from error
        raise ServerError(
            f"no agent answers there ({error}): start one with `vilamp serve`, or name it with --server"
        ) from error
    except httpx.TimeoutException as error:
        raise ServerError("the agent does not respond") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServerError(f"the connection failed: {str(error) or type(error).__name__}") from error
    except UnicodeEncodeError as error:
        raise ServerError("the question is not text in UTF-8") from error
    except STRANGE as error:
        raise ServerError(_NO_AGENT) from error


@contextmanager
def understood() -> Iterator[None]:
    """Context manager: raise ServerError if the block fails to read a response because it has an unknown format."""
    try:
        yield
    except STRANGE as error:
        raise ServerError(_NO_AGENT) from error


def _check(response: httpx.Response) -> None:
    """Raise ServerError with the server's own message unless the response has a 2xx status."""
    if response.is_success:
        return
    response.read()
    try:
        error = response.json()["error"]
        message, code = str(error["message"]), error.get("code")
    except STRANGE:
        message, code = f"{response.status_code} {response.reason_phrase}", None
    raise ServerError(message, status=response.status_code, code=code)


def _fold(chunk: Mapping[str, Any], reply: Reply) -> str:
    """Add one chunk of a streamed answer to `reply`, and return the chunk's text."""
    text = ""
    for choice in chunk.get("choices", []):
        delta = choice.get("delta", {})
        text += delta.get("content") or ""
        if (cited := delta.get("annotations")) is not None:  # sent again whole if they change
            reply.citations = [_citation(each) for each in cited]
        reply.finish_reason = choice.get("finish_reason") or reply.finish_reason
    extension = chunk.get("vilamp") or {}
    reply.num_frames = extension.get("frames", reply.num_frames)
    reply.notes += extension.get("notes", [])
    reply.visits += [_visit(each) for each in extension.get("visits", [])]
    reply.steps += extension.get("steps", [])
    reply.scope = dict(extension.get("scope") or reply.scope)
    reply.coverage = list(extension.get("coverage") or reply.coverage)
    reply.reading = dict(extension.get("reading") or reply.reading)
    reply.timings_ms |= extension.get("timings_ms", {})
    reply.text += text
    return text


def _citation(given: Mapping[str, Any]) -> Citation:
    return Citation(
        frame_id=int(given["frame_id"]),
        camera=str(given["camera"]),
        time=float(given["time"]),
        score=float(given["score"]),
        kind=str(given.get("kind", "")),
        url=str(given["url"]),
        metadata=dict(given.get("metadata") or {}),
        boxes=list(given.get("boxes") or []),
    )


def _visit(given: Mapping[str, Any]) -> Visit:
    return Visit(
        camera=str(given["camera"]),
        start=float(given["start"]),
        peak=float(given["peak"]),
        end=float(given["end"]),
        prominence=float(given["prominence"]),
        strength=float(given["strength"]),
        is_clear=bool(given["is_clear"]),
        frame_id=int(given["frame_id"]),
    )
