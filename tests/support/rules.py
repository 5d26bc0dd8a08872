"""A rule inside a whole agent, with a clock that the test sets.

The tiny model has random weights, so tests about what follows from verdicts choose the verdicts (`Says`). They choose what a
camera shows by the embedding that is stored with each frame.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from agent.alerts.judge import Judge
from agent.alerts.machine import Verdict, Vote
from agent.alerts.store import Filter
from agent.app import Agent
from agent.errors import ModelFailed
from agent.ingest.jpeg import encode_jpeg
from agent.runtime.lanes import Priority
from agent.settings.rules import RuleSettings
from tests.support.agents import START, picture, running

RULE: dict[str, Any] = {
    "condition": "a red car",
    "hold_s": 3,
    "cooldown_s": 5,
    "judge": {"window_s": 20, "num_keyframes": 4, "recent": 2, "recheck_s": 2},
}
LOW, HIGH = 0.1, 0.8
WARM_UP = 60


class Says(Judge):
    """A judge that returns the verdict that the test has set."""

    def __init__(self) -> None:
        self.verdict: Verdict | None = "yes"  # None: the model fails
        self.asked: list[tuple[str, float]] = []

    async def vote(
        self, rule: RuleSettings, camera: str, frame_id: int, time: float, priority: Priority = Priority.JUDGE
    ) -> Vote:
        self.asked.append((camera, time))
        if self.verdict is None:
            raise ModelFailed("out of memory")
        return Vote(frame_id, time, self.verdict)


class Scene:
    """An agent whose cameras show a red car, which its rule is about, or do not."""

    def __init__(self, agent: Agent, judge: Says, now: list[float]) -> None:
        self.agent, self.judge, self.now = agent, judge, now

    async def show(self, similarity: float, count: int = 1, *, camera: str = "yard", late_s: float = 0.0) -> None:
        """Show `count` frames, one second apart, which are `late_s` old when they are encoded."""
        for _ in range(count):
            self.now[0] += 1
            await self.remember(similarity, self.now[0] - late_s, camera)
            await self.agent.alerts.settled()

    async def remember(self, similarity: float, time: float, camera: str = "yard") -> None:
        """Store one frame with an embedding of the given cosine to the condition."""
        store = self.agent.store
        image = picture(int(time))
        frame_id = await asyncio.to_thread(store.append, camera, time, encode_jpeg(image), {})
        features = self.agent.model.encode([image])[0]
        embedding = self.embedding(similarity)
        store.attach(
            frame_id,
            embedding=embedding,
            summary=features.summary,
            patches=features.patches,
            scalars=features.scalars,
        )
        self.agent.alerts.frame(camera, frame_id, time, embedding)

    def embedding(self, similarity: float) -> np.ndarray:
        """Return an embedding (D,) of length 7 with the given cosine to the condition."""
        text = self.agent.model.embed_text(RULE["condition"]).unit
        other = np.roll(text, 1)
        other = other - (other @ text) * text
        other /= np.linalg.norm(other)
        return (7 * (similarity * text + np.sqrt(1 - similarity**2) * other)).astype(np.float32)

    def events(self) -> list[dict[str, Any]]:
        """Return the payloads of all alert events, oldest first."""
        return [json.loads(event.payload) for event in self.agent.alert_store.events(0)]

    def reasons(self) -> list[str]:
        """Return the reasons of suppressed alerts, oldest first."""
        return [held.reason for held in reversed(self.agent.alert_store.suppressed(Filter()))]

    async def rule(self, name: str = "car") -> dict[str, Any]:
        return await self.agent.alerts.describe(name)


@asynccontextmanager
async def scene(folder: Path, *, warm_up: int = WARM_UP, start: float = START, **changes: Any) -> AsyncIterator[Scene]:
    """Run an agent with the rule `car` on all cameras; its gate has seen `warm_up` frames of the camera `yard`."""
    now = [start]
    async with running(folder, clock=lambda: now[0], **{"rules": {"car": RULE}, **changes}) as agent:
        made = Scene(agent, Says(), now)
        agent.alerts.judge = made.judge
        await made.show(LOW, warm_up)
        yield made
