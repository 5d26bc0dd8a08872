"""Agents whose answers come from a vision server, and a name resolver with chosen answers."""

import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agent.app import Agent
from agent.ask.egress import Resolver, system_resolver
from agent.ask.question import Question
from agent.keep.memory import open_memory
from tests.support.agents import remember, settings_in, tiny_model
from tests.support.vlm_server import Spy

WHO = Question("Who came?", ("door",))
PUBLIC = "203.0.113.7"  # an address outside of private networks


class Names:
    """A name resolver that gives the chosen answers in order and repeats the last one."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def openai(spy: Spy, model: str = "good", host: str = "127.0.0.1", **more: Any) -> dict[str, Any]:
    """Return answerer settings for the vision server; the model name chooses its behaviour."""
    return {"kind": "openai", "base_url": spy.url(host), "model": model, "probe": False, **more}


@asynccontextmanager
async def asking(
    folder: Path, answerer: dict[str, Any], resolve: Resolver = system_resolver, **changes: Any
) -> AsyncIterator[Agent]:
    """Run an agent that lets a server answer. Its camera "door" has 12 frames, 10 s apart."""
    settings = settings_in(folder, answerer=answerer, **changes)
    model = tiny_model()
    async with Agent(settings, open_memory(settings, model), model, resolve=resolve).running() as agent:
        await remember(agent, "door", 12, step_s=10.0)
        yield agent


def parts_of(sent: dict[str, Any]) -> tuple[list[str], list[bytes]]:
    """Return the texts and the JPEG pictures of the user message in a request."""
    content = sent["body"]["messages"][-1]["content"]
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    assert all(url.startswith("data:image/jpeg;base64,") for url in urls)
    texts = [part["text"] for part in content if part["type"] == "text"]
    return texts, [base64.b64decode(url.partition(",")[2]) for url in urls]
