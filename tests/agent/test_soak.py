"""A short soak: at its caps an agent holds the same number of everything however long it runs.

Counts, not bytes and not time: what grows by one object a frame shows after a few hundred frames already.
"""

import asyncio
import gc
from collections import Counter
from pathlib import Path

import psutil

from agent.app import Agent
from agent.ask.question import Question
from agent.keep.erasing import Request
from memory.segments import Segment
from memory.window import Window
from streaming.frame import Frame
from tests.support.agents import START, ListSource, remember, running

CAMERAS = tuple(f"camera-{number}" for number in range(4))
KEPT = 30
ROUND = 16  # frames of each camera
KINDS = (Segment, Window, Frame, ListSource)


async def live_through(agent: Agent, number: int) -> None:
    """One round: frames from all cameras, questions over one and over all, some seconds erased."""
    start = START + number * ROUND
    async with asyncio.TaskGroup() as together:
        for camera in CAMERAS:
            together.create_task(remember(agent, camera, ROUND, start=start, first=number * ROUND))
    for cameras in ((CAMERAS[number % 4],), CAMERAS):
        await agent.answering.answer(Question("what is there?", cameras))
    await asyncio.to_thread(agent.erasing.erase, Request(CAMERAS[number % 4], start + 5, start + 9))
    await asyncio.to_thread(agent.store.maintain)


def held(folder: Path) -> dict[str, int]:
    """What is alive: objects of the memory and of the stream, tasks, threads, open files, files in the folder."""
    gc.collect()
    kinds = Counter(type(each).__name__ for each in gc.get_objects() if type(each) in KINDS)
    process = psutil.Process()
    return {
        **{kind.__name__: kinds[kind.__name__] for kind in KINDS},
        "tasks": len(asyncio.all_tasks()),
        "threads": process.num_threads(),
        "descriptors": process.num_fds(),
        "files": sum(path.is_file() for path in folder.rglob("*")),
    }


async def test_nothing_accumulates_at_the_caps(tmp_path: Path) -> None:
    cameras = {camera: {"max_frames": KEPT} for camera in CAMERAS}
    before = held(tmp_path)  # other tests of this process may have left something: a failed one keeps its frames
    async with running(tmp_path, cameras=cameras, memory={"max_frames": 4 * KEPT}) as agent:
        seen = []
        for number in range(9):
            await live_through(agent, number)
            seen.append(held(tmp_path))
            assert all(agent.store.stats(camera).frames <= KEPT for camera in CAMERAS)
        early, late = seen[2:5], seen[6:]
        for name in early[0]:
            most = max(each[name] for each in early)
            # worker threads start as they are needed, up to a fixed number
            assert max(each[name] for each in late) <= most + (40 if name == "threads" else 2), name
        assert late[-1]["Window"] <= before["Window"]
        assert late[-1]["Frame"] <= before["Frame"]
        assert agent.store.status().erased == 9 * 5
        assert len(agent.backlog) == 0
