"""A vision server with the OpenAI chat API that really looks: the built-in model sees each picture of a request.

    python -m tests.support.eyes            prints its port, serves on 127.0.0.1 until its input ends

What it knows of the world is what the pictures show: it decodes their data and asks the built-in model about each alone.
A small script puts that into words, as an instructed model would: which pictures show a thing, how often, first, last
and in which order, or what there is to see. So a strategy and a one-shot question are answered with the same eyes.
"""

import base64
import io
import json
import re
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from agent.ask.keyframes import Selection
from agent.ask.model import load_model
from agent.evaluation.arms import Asker
from agent.settings.settings import Settings

LOOK_AROUND = "what can you see right now?"
SAME_VISIT_S = 6.0
COUNTS: Counter[str] = Counter()  # calls, pictures


@dataclass(frozen=True)
class Shown:
    """A picture of a request with its label, and the second of the day that the label says."""

    label: str
    jpeg: bytes
    second: float


class Eyes:
    """Answers requests about pictures."""

    def __init__(self) -> None:
        self._model: Any = load_model(Settings(model={"num_threads": 1}))
        self._model.familiarity = None  # a single picture does not show whether a camera is foreign
        self._arm = Selection.of(self._model.info.defaults)
        self._askers: dict[bytes, Asker] = {}

    def _ask(self, jpeg: bytes, question: str) -> str:
        if jpeg not in self._askers:
            image = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
            self._askers[jpeg] = Asker(self._model, self._model.encode([image]), np.array([1_700_000_000.0]))
        return self._askers[jpeg].ask(question, self._arm).text.strip().rstrip(".").lower()

    def shows(self, shown: Shown, thing: str) -> bool:
        come = "open" if thing.endswith("door") else "come"
        return self._ask(shown.jpeg, f"did any {thing} ever {come}?").startswith("yes")

    def answer(self, text: str, shown: Sequence[Shown]) -> str:
        """Return the answer to the text of a request with these pictures."""
        if found := re.search(r'numbered 1 to (\d+) .*does it show this: "([^"]+)"', text):
            return "\n".join(f"{n}: {'yes' if self.shows(each, found[2]) else 'no'}" for n, each in enumerate(shown, 1))
        if found := re.search(r'Does this picture show this: "([^"]+)"', text):
            return "Yes." if self.shows(shown[0], found[1]) else "No."
        if found := re.search(r"in order of time, are:\n(.*)\n\nAnswer", text, re.S):
            return found[1]
        if "Note in a few short lines" in text or text.startswith("What happened"):
            return self._described(shown)
        return self._composed(text.lower().strip("?. "), shown)

    def _described(self, shown: Sequence[Shown]) -> str:
        lines = []
        for each in shown:
            said = self._ask(each.jpeg, LOOK_AROUND)
            if said not in ("", "nothing"):
                lines.append(f"{each.label.rstrip(':')}: {said}")
        return "\n".join(lines) or "Nothing."

    def _composed(self, text: str, shown: Sequence[Shown]) -> str:
        if found := re.fullmatch(r"how many times did an? (.+) (?:come|open)", text):
            seconds = [each.second for each in shown if self.shows(each, found[1])]
            starts = [s for s, before in zip(seconds, [-1e9, *seconds], strict=False) if s - before > SAME_VISIT_S]
            return f"{len(starts)} times"
        if found := re.fullmatch(r"when was an? (.+) (first|last) seen", text):
            labels = [each.label for each in shown if self.shows(each, found[1])]
            return (labels[0 if found[2] == "first" else -1]) if labels else f"I see no {found[1]}"
        if found := re.fullmatch(r"did an? (.+) come before or after an? (.+)", text):
            firsts = [[each.second for each in shown if self.shows(each, thing)][:1] for thing in found.groups()]
            if not all(firsts):
                return "I cannot tell."
            return "before" if firsts[0] < firsts[1] else "after"
        return "I do not know."


def second_of(label: str) -> float:
    found = re.search(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)", label)
    return datetime.fromisoformat(f"{found[1]} {found[2]}").timestamp() if found else 0.0


def request_of(body: dict[str, Any]) -> tuple[str, list[Shown]]:
    """Return the last text and the pictures with their labels of a chat request."""
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return content, []
    shown, text = [], ""
    for part in content:
        if part["type"] == "text":
            text = part["text"]
        else:
            jpeg = base64.b64decode(part["image_url"]["url"].partition(",")[2])
            shown.append(Shown(text, jpeg, second_of(text)))
    return text, shown


def app() -> Starlette:
    eyes, lock = Eyes(), threading.Lock()

    def look(text: str, shown: Sequence[Shown]) -> str:
        with lock:
            return eyes.answer(text, shown)

    async def complete(request: Request) -> Response:
        body = await request.json()
        text, shown = request_of(body)
        COUNTS.update(calls=1, pictures=len(shown))
        said = await run_in_threadpool(look, text, shown)
        chunks = [
            {"choices": [{"index": 0, "delta": {"content": said}, "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {
                "choices": [],
                "usage": {"prompt_tokens": 100 + 200 * len(shown), "completion_tokens": len(said) // 4 + 1},
            },
        ]
        lines = [*(json.dumps(chunk) for chunk in chunks), "[DONE]"]
        return StreamingResponse(iter([f"data: {line}\n\n" for line in lines]), media_type="text/event-stream")

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "eyes", "object": "model"}]})

    async def counts(request: Request) -> Response:
        told = dict(COUNTS)
        COUNTS.clear()
        return JSONResponse(told)

    return Starlette(
        routes=[
            Route("/v1/chat/completions", complete, methods=["POST"]),
            Route("/v1/models", models),
            Route("/counts", counts),
        ]
    )


class EyesServer:
    """The server's process: its base URL, and what it did since the last call of `counts`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        self.port = int(process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def counts(self) -> dict[str, int]:
        return dict(httpx.get(f"http://127.0.0.1:{self.port}/counts", trust_env=False).json())


@contextmanager
def true_eyes() -> Iterator[EyesServer]:
    """Run the server as a process."""
    command = [sys.executable, "-m", "tests.support.eyes"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield EyesServer(process)
        finally:
            if process.stdin:
                process.stdin.close()
            process.wait(20)


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app(), log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    print(listener.getsockname()[1], flush=True)

    def end_with_input() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=end_with_input, daemon=True).start()
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
