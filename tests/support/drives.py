"""An agent with the built-in model that remembers a drawn robot's drive of 100 s.

A green box is there at 39 to 45 s, a purple dog at 71 to 75 s.
"""

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agent.app import Agent
from agent.ask.model import load_model
from agent.evaluation.clips import Clip, world_clip
from agent.keep.memory import open_memory
from agent.settings.settings import Settings
from streaming.frame import Frame
from tests.support.agents import START, ListSource, settings_in

NUM_FRAMES = 100


@functools.cache
def drive() -> tuple[Clip, list[Any]]:
    """A robot's drive and its pictures: a green box at 39 to 45 s, a purple dog at 71 to 75 s."""
    clip = world_clip(0, NUM_FRAMES)
    return clip, list(clip.pictures())


class Drive(ListSource):
    """Frames, the pose told just before each of them."""

    def __init__(self, agent: Agent, camera: str, poses: bool, start: float) -> None:
        clip, pictures = drive()
        super().__init__(camera, [Frame(start + n, each, "arrival") for n, each in enumerate(pictures)])
        self._agent, self._scene, self._poses, self._start = agent, clip.scene, poses, start

    async def frames(self) -> AsyncIterator[Frame]:
        async for frame in super().frames():
            if self._poses and self._scene is not None:
                self._agent.cameras.intake_of(self.camera).add_metadata(
                    self._scene.metadata_at(frame.time - self._start), frame.time, frame.time
                )
            yield frame


@functools.cache
def builtin() -> Any:
    return load_model(Settings(model={"num_threads": 1}))


@asynccontextmanager
async def rover(folder: Path, *, poses: bool = True, start: float = START, **changes: Any) -> AsyncIterator[Agent]:
    """An agent that remembers the drive."""
    cameras = {"rover": {"timezone": "UTC"}, "yard": {"timezone": "UTC"}}
    defaults: dict[str, Any] = {"model": {"num_threads": 1}, "answering": {"max_new_tokens": 24}}
    settings = settings_in(folder, cameras=cameras, **{**defaults, **changes})
    async with Agent(settings, open_memory(settings, builtin()), builtin()).running() as agent:
        await agent.cameras.watch("rover", Drive(agent, "rover", poses, start))
        await agent.encoded()
        yield agent
