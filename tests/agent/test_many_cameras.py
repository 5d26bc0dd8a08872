"""A hundred cameras: one encoder, one batch for many of them, and nothing heavy a hundred times."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from agent.app import Agent
from agent.ask.question import Question
from agent.keep.memory import open_memory
from streaming.decoder import Input
from streaming.frame import Frame
from tests.support.agents import START, ListSource, frames, picture, running, settings_in, tiny_model
from tests.support.streams import write_clip

NUM_CAMERAS = 100
MOST_BYTES = 200 << 20  # a hundred copies of the smallest model would be gigabytes; a camera may cost 2 MB
POOL_THREADS = 48  # asyncio's own workers, the lanes and the libraries', however many cameras there are


def resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


class Watched:
    """The tiny model; notes the sizes of the pictures in each batch."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.batches: list[list[tuple[int, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode(self, images: list[np.ndarray]) -> list[Any]:
        self.batches.append([image.shape for image in images])
        return list(self._model.encode(images))


async def test_cameras_of_every_size_share_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.ingest.encoder.BATCH_SIZE", 4)
    settings = settings_in(tmp_path, model={"path": "unused"})
    model = Watched(tiny_model())
    async with Agent(settings, open_memory(settings, model), model).running() as agent:  # type: ignore[arg-type]
        await agent.encoded()
        sources = []
        for n in range(6):
            sent = [Frame(frame.time, picture(n, 64 + 16 * n, 48), "arrival") for frame in frames(3)]
            sources.append(ListSource(f"cam{n}", sent))
        await asyncio.gather(*(agent.cameras.watch(source.camera, source) for source in sources))
        await agent.encoded()
        assert [agent.store.stats(f"cam{n}").encoded for n in range(6)] == [3] * 6
    assert sum(len(batch) for batch in model.batches) == 18
    assert max(len(batch) for batch in model.batches) <= 4
    assert any(len(set(batch)) > 1 for batch in model.batches)


async def test_a_hundred_publishers_cost_no_thread_and_little_memory(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        await agent.cameras.watch("first", ListSource("first", frames(4)))
        await agent.encoded()
        bytes_before = resident_bytes()
        names = [f"cam{n:02}" for n in range(NUM_CAMERAS)]
        sources = [ListSource(name, frames(2, first=10 * n), stay=True) for n, name in enumerate(names)]
        tasks = [asyncio.create_task(agent.cameras.watch(source.camera, source)) for source in sources]
        while sum(agent.store.stats(name).frames for name in names) < 2 * NUM_CAMERAS:
            await asyncio.sleep(0.02)
        await agent.encoded()
        assert all(agent.cameras.intakes[name].state == "live" for name in names)
        assert threading.active_count() < POOL_THREADS
        assert resident_bytes() - bytes_before < MOST_BYTES
        answer = await agent.answering.answer(Question("What colour was the dog?", agent.cameras.existing(())))
        assert answer.seen.num_frames == 2 * NUM_CAMERAS + 4
        assert len({evidence.camera for evidence in answer.seen.evidence}) > 1
        await asyncio.gather(*(source.close() for source in sources), *tasks)


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
async def test_a_hundred_configured_cameras_that_are_dead(tmp_path: Path, scheme: str) -> None:
    """One waiting thread for each, no decoder, and the agent answers about a camera that is alive."""
    cameras: dict[str, Any] = {f"dead{n:02}": {"url": f"{scheme}://127.0.0.1:9/{n}"} for n in range(NUM_CAMERAS)}
    bytes_before = resident_bytes()
    async with running(tmp_path, cameras={**cameras, "alive": {}}) as agent:
        while (
            sum(i.source is not None and i.source.stats.detail != "" for i in agent.cameras.intakes.values())
            < NUM_CAMERAS
        ):
            await asyncio.sleep(0.02)
        assert threading.active_count() < NUM_CAMERAS + POOL_THREADS
        assert resident_bytes() - bytes_before < MOST_BYTES
        await agent.cameras.watch("alive", ListSource("alive", frames(5)))
        await agent.encoded()
        answer = await agent.answering.answer(Question("Who came?", ("alive",), after=START))
        assert answer.seen.num_frames == 5
        assert {agent.cameras.intakes[name].state for name in cameras} == {"offline"}
    while any(thread.name.startswith("live-dead") for thread in threading.enumerate()):
        await asyncio.sleep(0.02)


def test_a_live_camera_decodes_in_one_thread(tmp_path: Path) -> None:
    clip = str(write_clip(tmp_path / "clip.mp4"))
    camera = Input(clip, live=True)
    before = psutil.Process().num_threads()
    assert next(camera.frames()).media_s == 0.0
    assert psutil.Process().num_threads() == before
    camera.close()
