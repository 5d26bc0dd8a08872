"""Run sixteen cameras at one frame a second into one agent for an hour: do memory, threads and open files stay constant?

    python -m benchmarks.soak --minutes 60

The real agent with the built-in model: journal, encoder, memory at its limits (so frames leave as fast as they come), two
rules per camera, a question every 20 s, an erasure every 5 minutes, the state of health every 5 s. Frames of drawn worlds
come from sources in this process, because this measures what the agent keeps, not how WebRTC decodes. Each camera's history
is filled beforehand to a different depth, so that their segments do not begin and end together. Writes bench-soak.json and
soak.png.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from agent.app import Agent, opened
from agent.ask.question import Question
from agent.errors import Problem
from agent.keep.erasing import Request
from agent.settings.settings import Settings
from benchmarks.machine import add_out, machine, measured_path, picture_path, show, write_result
from model.world.draw import draw
from model.world.scene import Scene
from streaming.frame import Frame, SourceStats

CAMERAS = tuple(f"camera-{number:02}" for number in range(16))
MAX_FRAMES = 256
SEGMENT = 256
SAMPLE_S, QUESTION_S, ERASE_S = 5.0, 20.0, 300.0
RULES = {"red-car": "a red car is there", "bag": "a bag was left behind"}
QUESTIONS = ("Did a red car come?", "What was there last?", "How many people came by?", "Was a bag left behind?")


class Paced:
    """A source of frames of a clip at `rate_hz` by the clock, or `count` of them at once."""

    def __init__(self, camera: str, clip: list[np.ndarray], *, rate_hz: float | None, start: float, count: int) -> None:
        self.camera = camera
        self.stats = SourceStats(state="live")
        self._clip, self._rate_hz, self._start, self._count = clip, rate_hz, start, count
        self._closed = asyncio.Event()

    async def frames(self) -> AsyncIterator[Frame]:
        for number in range(self._count):
            if self._rate_hz is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, self._start + number / self._rate_hz - time.time())):
                        await self._closed.wait()
            if self._closed.is_set():
                return
            self.stats.received += 1
            self.stats.kept += 1
            yield Frame(self._start + number / (self._rate_hz or 1.0), self._clip[number % len(self._clip)], "arrival")

    async def close(self) -> None:
        self._closed.set()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=1, help="model.num_threads")
    add_out(parser)
    args = parser.parse_args()
    here = machine(model_threads=args.threads)
    show(here)
    with tempfile.TemporaryDirectory(prefix="vilamp-soak-") as folder:
        measured = asyncio.run(soak(Path(folder), args.minutes * 60, args.threads))
    print(json.dumps({name: value for name, value in measured.items() if name != "resident_mib"}, indent=1))
    write_result(measured_path(args.out, "bench-soak.json"), here, measured)
    plot(measured["resident_mib"], picture_path(args.out, "soak.png"))


async def soak(folder: Path, seconds: float, threads: int) -> dict[str, Any]:
    """Fill the memory, then measure while frames come, questions are asked and time is erased."""
    settings = Settings.model_validate(
        {
            "data_dir": folder,
            "model": {"num_threads": threads},
            "cameras": {camera: {"max_frames": MAX_FRAMES} for camera in CAMERAS},
            "answering": {"max_new_tokens": 24},
            "rules": {name: {"condition": condition} for name, condition in RULES.items()},
            "alerts": {"max_alerts": 100},
        }
    )
    clip = [draw(Scene.from_seed(5, duration_s=120.0, split="eval"), float(t), 640, 360) for t in range(120)]
    async with opened(settings) as agent:
        began = time.time()
        for number, camera in enumerate(CAMERAS):
            count = MAX_FRAMES + number * SEGMENT // len(CAMERAS)
            await agent.cameras.watch(camera, Paced(camera, clip, rate_hz=None, start=began - 10_000, count=count))
        await agent.encoded()
        filled_s = time.time() - began
        counts = {"asked": 0, "refused": 0, "erased": 0}
        resident: list[tuple[float, float]] = []
        held: list[tuple[int, int]] = []
        lag: list[int] = []
        before = sum(intake.counters.remembered for intake in agent.cameras.intakes.values())
        live = [
            asyncio.create_task(agent.cameras.watch(c, endless(c, clip, n, seconds))) for n, c in enumerate(CAMERAS)
        ]
        helpers = [asyncio.create_task(ask(agent, counts)), asyncio.create_task(erase(agent, counts))]
        helpers.append(asyncio.create_task(sample(agent, resident, held, lag)))
        await asyncio.gather(*live)
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
        remembered = sum(intake.counters.remembered for intake in agent.cameras.intakes.values()) - before
        lost = sum(intake.counters.lost for intake in agent.cameras.intakes.values())
        samples = [sample for metric in agent.metrics.judgements.collect() for sample in metric.samples]
        judged = int(sum(sample.value for sample in samples if sample.name.endswith("_total")))
    return {
        "minutes": round(seconds / 60, 1),
        "cameras": len(CAMERAS),
        "max_frames_each": MAX_FRAMES,
        "filled_s": round(filled_s, 1),
        "frames_remembered": remembered,
        "frames_expected": int(seconds) * len(CAMERAS),
        "frames_lost": lost,
        "encoder_lag_frames": {"median": int(np.median(lag)), "most": max(lag)},
        "judge_calls": judged,
        **counts,
        **constant(held),
        **growth(resident),
        "resident_mib": [(round(t, 1), round(mib, 1)) for t, mib in resident],
    }


def endless(camera: str, clip: list[np.ndarray], number: int, seconds: float) -> Paced:
    """Yield one frame a second, each camera at its own moment."""
    turned = clip[number * 7 :] + clip[: number * 7]
    return Paced(camera, turned, rate_hz=1.0, start=time.time() + 1 + number / 16, count=int(seconds))


async def ask(agent: Agent, counts: dict[str, int]) -> None:
    """Ask one question after another, about one camera or all."""
    while True:
        await asyncio.sleep(QUESTION_S)
        number = counts["asked"] + counts["refused"]
        cameras = CAMERAS if number % 5 == 4 else (CAMERAS[number % len(CAMERAS)],)
        try:
            await agent.answering.answer(Question(QUESTIONS[number % len(QUESTIONS)], cameras))
            counts["asked"] += 1
        except Problem:
            counts["refused"] += 1


async def erase(agent: Agent, counts: dict[str, int]) -> None:
    """Erase ten seconds of one camera."""
    while True:
        await asyncio.sleep(ERASE_S)
        now = time.time()
        camera = CAMERAS[counts["erased"] % len(CAMERAS)]
        erased = await asyncio.to_thread(agent.erasing.erase, Request(camera, now - 60, now - 50))
        counts["erased"] += erased["frames"]


async def sample(
    agent: Agent, resident: list[tuple[float, float]], held: list[tuple[int, int]], lag: list[int]
) -> None:
    """Record resident memory, threads, open files and frames not yet encoded, every SAMPLE_S."""
    process, began = psutil.Process(), time.monotonic()
    while True:
        resident.append((time.monotonic() - began, process.memory_info().rss / 2**20))
        held.append((process.num_threads(), process.num_fds()))
        await asyncio.to_thread(agent.health.run)
        stats = [agent.store.stats(camera) for camera in CAMERAS]
        lag.append(sum(each.frames - each.encoded for each in stats))
        await asyncio.sleep(SAMPLE_S)


def constant(held: list[tuple[int, int]]) -> dict[str, dict[str, int]]:
    """Return the least and most threads and open files after the first fifth."""
    settled = np.array(held[len(held) // 5 :])
    named = zip(("threads", "open_files"), settled.T, strict=True)
    return {name: {"least": int(column.min()), "most": int(column.max())} for name, column in named}


def growth(resident: list[tuple[float, float]]) -> dict[str, float]:
    """Return the growth of memory after the first fifth: a fitted line, and the means of the second and last fifth."""
    gc.collect()
    times, mib = np.array(resident).T
    settled = times >= times[-1] / 5
    slope = float(np.polyfit(times[settled], mib[settled], 1)[0]) * 3600 if settled.sum() > 2 else 0.0
    fifths = [float(mib[(times >= times[-1] * n / 5) & (times <= times[-1] * (n + 1) / 5)].mean()) for n in range(5)]
    return {
        "slope_mib_per_hour": round(slope, 2),
        "second_to_last_fifth_percent": round(100 * (fifths[4] / fifths[1] - 1), 2),
        "mean_of_second_fifth_mib": round(fifths[1], 1),
        "mean_of_fourth_fifth_mib": round(fifths[3], 1),
        "mean_of_last_fifth_mib": round(fifths[4], 1),
        "lowest_mib": round(float(mib[settled].min()), 1),
        "highest_mib": round(float(mib[settled].max()), 1),
    }


def plot(resident: list[tuple[float, float]], path: Path) -> None:
    """Plot resident memory over time."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    times, mib = np.array(resident).T
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    axes.plot(times / 60, mib, linewidth=1)
    axes.set(xlabel="minutes", ylabel="resident memory, MiB", ylim=(0, 1.15 * mib.max()))
    axes.set_title("16 cameras at 1 frame/s, memory at its caps, rules, questions, erasures")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
