"""A small client of the agent's own HTTP API, for the command line and the demo.

In: questions and windows (unix seconds). Out: text pieces as they are written, then one Reply. It speaks the
OpenAI-style API and its documented extensions, and knows nothing of how answers are made.
"""

import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx

CONNECT_TIMEOUT_S = 5.0
# The server writes a comment line every 15 s while it works, so silence this long means that it is gone.
SILENCE_TIMEOUT_S = 45.0


# What reading an answer of another form raises
STRANGE = (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError)
_NO_AGENT = "what answers there is not a ViLaMP agent, or one of another version"


class ServerError(Exception):
    """The agent refused or failed, or cannot be reached; the message says what it said."""

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class Citation:
    """A frame that an answer rests on."""

    frame_id: int
    camera: str
    time: float  # unix seconds
    score: float  # cosine with the question
    kind: str  # "relevant", "recent" or "filling"
    url: str  # signed
    metadata: dict[str, Any] = field(default_factory=dict)  # pose and whatever else came with the frame
    boxes: list[list[float]] = field(default_factory=list)  # [left, top, right, bottom] as shares of the picture


@dataclass(slots=True)
class Reply:
    """A complete answer."""

    text: str = ""
    finish_reason: str | None = None
    citations: list[Citation] = field(default_factory=list)
    num_frames: int = 0  # remembered in the window that was asked about
    notes: list[str] = field(default_factory=list)
    timings_ms: dict[str, float] = field(default_factory=dict)


class Client:
    """One connection to an agent. A context manager; not for several threads at once."""

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
        within: Mapping[str, float] | None = None,
    ) -> Iterator[str | Reply]:  # fmt: skip
        """Text pieces as they come, then the whole Reply. within: x, y, radius_m. Raises ServerError."""
        body: dict[str, Any] = {"messages": [{"role": "user", "content": question}], "stream": True}
        body |= {name: value for name, value in (("after", after), ("before", before)) if value is not None}
        if cameras:
            body["cameras"] = list(cameras)
        if within is not None:
            body["within"] = dict(within)
        reply = Reply()
        complete = False
        with _failures(), self._http.stream("POST", "/v1/chat/completions", json=body) as response:
            _check(response)
            for chunk in _events(response.iter_lines()):
                if chunk is None:
                    complete = True
                    break
                piece = _fold(chunk, reply)
                if piece:
                    yield piece
        if not complete:
            raise ServerError("the answer broke off: the server closed the stream early")
        yield reply

    def get_json(self, path: str) -> Any:
        """What `path` answers. Raises ServerError."""
        with _failures():
            response = self._http.get(path)
            _check(response)
            return response.json()

    def send_json(self, method: str, path: str, body: Any = None) -> Any:
        """What the request answers; None when it answers nothing. Raises ServerError."""
        with _failures():
            response = self._http.request(method, path, json=body)
            _check(response)
            return response.json() if response.content else None

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The server-sent events that a POST answers, up to `[DONE]`. Raises ServerError, also for one among them."""
        with _failures(), self._http.stream("POST", path, json=body) as response:
            _check(response)
            for event in _events(response.iter_lines()):
                if event is None:
                    return
                if "error" in event:
                    raise ServerError(str(event["error"].get("message", "it failed")), code=event["error"].get("code"))
                yield event

    def delete_json(self, path: str) -> Any:
        """What `DELETE path` answers, however long it takes. Raises ServerError."""
        with _failures():
            response = self._http.delete(path, timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S))
            _check(response)
            return response.json()

    def download(self, path: str, target: Path) -> None:
        """What `path` answers, however long it takes, into a file. Raises ServerError, OSError."""
        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
        with _failures(), self._http.stream("GET", path, timeout=timeout) as response:
            _check(response)
            with target.open("wb") as file:
                for chunk in response.iter_bytes():
                    file.write(chunk)

    def get_bytes(self, url: str) -> bytes:
        """A picture by its signed URL. Raises ServerError.

        Only the path and query are used: the token goes to the server it was meant for and to no other. A prefix at
        which a proxy has the agent may be in both the server's address and `url`.
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
    """Turns what httpx raises into ServerError."""
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
        raise ServerError("the agent has gone silent") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServerError(f"the connection failed: {str(error) or type(error).__name__}") from error
    except UnicodeEncodeError as error:
        raise ServerError("what was typed is not text in UTF-8") from error
    except STRANGE as error:
        raise ServerError(_NO_AGENT) from error


@contextmanager
def understood() -> Iterator[None]:
    """Around code that reads what a server has answered: an answer of another form raises ServerError."""
    try:
        yield
    except STRANGE as error:
        raise ServerError(_NO_AGENT) from error


def _check(response: httpx.Response) -> None:
    """Raise ServerError with the server's own message unless the status is 2xx."""
    if response.is_success:
        return
    response.read()
    try:
        error = response.json()["error"]
        message, code = str(error["message"]), error.get("code")
    except STRANGE:
        message, code = f"{response.status_code} {response.reason_phrase}", None
    raise ServerError(message, status=response.status_code, code=code)


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any] | None]:
    """The JSON of each server-sent event; None for the closing `[DONE]`. Comments are skipped."""
    for line in lines:
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        yield None if data == "[DONE]" else json.loads(data)


def _fold(chunk: Mapping[str, Any], reply: Reply) -> str:
    """Take one chunk into `reply`; the text in it. Raises ServerError for an error in mid-stream."""
    if "error" in chunk:
        raise ServerError(str(chunk["error"].get("message", "it failed")), code=chunk["error"].get("code"))
    text = ""
    for choice in chunk.get("choices", []):
        delta = choice.get("delta", {})
        text += delta.get("content") or ""
        reply.citations += [_citation(each) for each in delta.get("annotations") or []]
        reply.finish_reason = choice.get("finish_reason") or reply.finish_reason
    extension = chunk.get("vilamp") or {}
    reply.num_frames = extension.get("frames", reply.num_frames)
    reply.notes += extension.get("notes", [])
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
