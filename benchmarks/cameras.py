"""Measure the whole server under load: `vilamp serve` in its own process, cameras over WebRTC, questions back to back.

    python -m benchmarks.cameras                 four cameras 720p30, 1 frame a second kept, while questions are answered
    python -m benchmarks.cameras --flood         one camera kept faster than the encoder works: does memory stay flat?

Publishers run in a process of their own and send a clip encoded beforehand, but they share this machine's cores with the
server. The numbers are the differences of the server's metrics between two scrapes, and its resident memory. Quantiles of
the event-loop lag are bounds of the buckets of the histogram vilamp_event_loop_lag_seconds.
"""

import argparse
import asyncio
import json
import math
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from prometheus_client.parser import text_string_to_metric_families

from agent.cli.client import Client, Reply, ServerError
from agent.cli.demo.server import DemoServer, running_server
from benchmarks.answering import QUESTIONS
from benchmarks.machine import add_out, machine, measured_path, picture_path, show, write_result
from benchmarks.publisher import RATE_HZ, write_clip

Labels = frozenset[tuple[str, str]]
Scrape = dict[tuple[str, Labels], float]
CAMERAS = ("gate", "yard", "hall", "dock")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flood", action="store_true")
    parser.add_argument("--seconds", type=float, help="measured (default: 60, with --flood 150)")
    parser.add_argument("--settle", type=float, help="before that (default: 15, with --flood 60)")
    parser.add_argument("--threads", type=int, default=1, help="the server's model.num_threads")
    add_out(parser)
    args = parser.parse_args()
    here = machine(model_threads=args.threads)
    show(here)
    with tempfile.TemporaryDirectory(prefix="vilamp-bench-") as folder:
        if args.flood:
            load = Load(("flood",), 30.0, 600, args.settle or 60.0, args.seconds or 150.0)
        else:
            load = Load(CAMERAS, 1.0, 10_000, args.settle or 15.0, args.seconds or 60.0)
        measured = asyncio.run(run(Path(folder), load, args.threads))
    print(json.dumps({name: value for name, value in measured.items() if name != "resident_mib"}, indent=1))
    name = "bench-flood" if args.flood else "bench-cameras"
    write_result(measured_path(args.out, f"{name}.json"), here, measured)
    if args.flood:
        plot(measured["resident_mib"], load.settle_s, picture_path(args.out, "resident-memory.png"))


@dataclass(frozen=True, slots=True)
class Load:
    """The load on the server."""

    cameras: tuple[str, ...]
    rate_hz: float
    max_frames: int
    settle_s: float  # questions are asked during this time too
    seconds: float


@dataclass(slots=True)
class Asked:
    """The outcome of the questions."""

    replies: list[Reply] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


async def run(folder: Path, load: Load, threads: int) -> dict[str, Any]:
    """Start everything, wait until it has settled, and measure between two scrapes."""
    clip = await asyncio.to_thread(write_clip, folder / "clip.h264", seconds=6.0)
    async with running_server(folder, config(load, threads)) as server, publishing(server, clip, load) as publisher:
        process = psutil.Process(server.process.pid)
        resident_mib: list[tuple[float, float]] = []
        sampling = asyncio.create_task(sample_resident(process, resident_mib))
        asked, stop = Asked(), threading.Event()
        asking = asyncio.create_task(asyncio.to_thread(ask, server, load, stop, asked))
        await asyncio.sleep(load.settle_s)
        before, began, cpu = await scrape(server), time.monotonic(), cpu_seconds(process)
        await asyncio.sleep(load.seconds)
        after, seconds = await scrape(server), time.monotonic() - began
        publisher_cpu = cpu_seconds(psutil.Process(publisher.pid))
        used = cpu_seconds(process) - cpu
        stop.set()
        await asking
        sampling.cancel()
    return summarise(load, before, after, seconds, asked) | {
        "server_cores_used": round(used / seconds, 2),
        "publisher_cores_used": round(publisher_cpu / (load.settle_s + seconds), 2),
        **memory_growth(resident_mib, load.settle_s),
    }


def config(load: Load, threads: int) -> dict[str, object]:
    """Return the server's configuration file."""
    camera = {"rate_hz": load.rate_hz, "max_frames": load.max_frames}
    return {
        "port": 0,
        "cameras": dict.fromkeys(load.cameras, camera),
        "model": {"num_threads": threads},
        "log_level": "warning",
    }


@asynccontextmanager
async def publishing(server: DemoServer, clip: Path, load: Load) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the publishers' process during the load and a little longer."""
    command = ["-m", "benchmarks.publisher", "--url", server.url, "--token", server.publish_token, "--clip", str(clip)]
    command += ["--seconds", str(load.settle_s + load.seconds + 60), "--cameras", *load.cameras]
    process = await asyncio.create_subprocess_exec(sys.executable, *command)
    try:
        yield process
    finally:
        process.terminate()
        await process.wait()


def ask(server: DemoServer, load: Load, stop: threading.Event, asked: Asked) -> None:
    """Ask one question after another, about all cameras, until stopped."""
    with Client(server.url, server.ask_token) as client:
        while not stop.is_set():
            question = QUESTIONS[len(asked.replies) % len(QUESTIONS)]
            started = time.perf_counter()
            try:
                reply = [event for event in client.ask(question, cameras=load.cameras) if isinstance(event, Reply)][-1]
            except ServerError as error:
                asked.errors.append(str(error))
                stop.wait(1.0)
                continue
            asked.seconds.append(time.perf_counter() - started)
            asked.replies.append(reply)


async def scrape(server: DemoServer) -> Scrape:
    """Return /metrics as a mapping from (sample, labels) to value."""
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {server.ask_token}"}, timeout=30.0) as http:
        text = (await http.get(f"{server.url}/metrics")).text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for metric in text_string_to_metric_families(text)
        for sample in metric.samples
    }


async def sample_resident(process: psutil.Process, samples: list[tuple[float, float]]) -> None:
    """Append (seconds since now, MiB resident) once a second until cancelled."""
    started = time.monotonic()
    while True:
        samples.append((round(time.monotonic() - started, 1), round(process.memory_info().rss / 2**20, 1)))
        await asyncio.sleep(1.0)


def cpu_seconds(process: psutil.Process) -> float:
    """Return user and system time so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def memory_growth(samples: list[tuple[float, float]], settle_s: float) -> dict[str, Any]:
    """Fit a line through the resident memory after the settling time. Returns its rise and the spread."""
    seconds, mib = np.array([sample for sample in samples if sample[0] >= settle_s]).T
    slope, _ = np.polyfit(seconds, mib, 1)
    return {
        "resident_mib_median": round(float(np.median(mib)), 1),
        "resident_mib_rise_of_fitted_line": round(float(slope * (seconds[-1] - seconds[0])), 1),
        "resident_mib_spread": round(float(mib.max() - mib.min()), 1),
        "resident_mib": samples,
    }


def plot(samples: list[tuple[float, float]], settle_s: float, path: Path) -> None:
    """Plot resident memory over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(*np.array(samples).T)
    axes.axvline(settle_s, color="grey", linestyle=":", label="measured from here")
    axes.set(xlabel="seconds since the camera connected", ylabel="MiB resident", ylim=(0, None))
    axes.set_title("One camera at 30 kept frames/s, questions back to back, 600 frames remembered")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
    print(f"written to {path}")


def summarise(load: Load, before: Scrape, after: Scrape, seconds: float, asked: Asked) -> dict[str, Any]:
    """Return what happened between two scrapes."""

    def rise(name: str, **labels: str) -> float:
        wanted = labels.items()
        return sum(v - before.get(k, 0.0) for k, v in after.items() if k[0] == name and wanted <= dict(k[1]).items())

    newest = "vilamp_memory_newest_time_seconds"
    spans_s = [rise(newest, camera=camera) for camera in load.cameras]
    received = [rise("vilamp_session_received_frames", camera=camera) for camera in load.cameras]
    result: dict[str, Any] = {
        "seconds": round(seconds, 1),
        "cameras": len(load.cameras),
        "kept_a_second": load.rate_hz,
        "received_frames_a_second": [round(count / seconds, 1) for count in received],
        "sent_frames_a_second": RATE_HZ,
        "frames_expected": sum(round(span * load.rate_hz) for span in spans_s),  # from the capture times
        "frames_expected_by_the_wall_clock": round(seconds * load.rate_hz) * len(load.cameras),
        "frames_kept": rise("vilamp_session_kept_frames"),
        "frames_remembered": rise("vilamp_frames_remembered_total"),
        "frames_encoded": rise("vilamp_frames_encoded_total"),
        "dropped_after_being_kept": rise("vilamp_session_dropped_frames"),
        "lost_disk": rise("vilamp_frames_lost_total"),
        "forgotten_before_encoded": rise("vilamp_encode_failures_total", reason="gone"),
        "encode_failures": rise("vilamp_encode_failures_total") - rise("vilamp_encode_failures_total", reason="gone"),
        "shed_undecoded": rise("vilamp_session_shed_frames"),
        "sessions_closed": rise("vilamp_whip_closed_total"),
        "event_loop_lag_ms": lag(before, after),
    }
    return result | answers(asked)


def lag(before: Scrape, after: Scrape) -> dict[str, float]:
    """Return upper bounds of p50, p99 and the maximum, from the buckets of the histogram."""
    name = "vilamp_event_loop_lag_seconds_bucket"
    buckets = sorted((float(dict(k[1])["le"]), v - before.get(k, 0.0)) for k, v in after.items() if k[0] == name)
    total = buckets[-1][1]

    def bound(share: float) -> float:
        return next(1000 * edge for edge, count in buckets if count >= share * total)

    return {"p50_below": bound(0.5), "p99_below": bound(0.99), "max_below": bound(1.0), "samples": total}


def answers(asked: Asked) -> dict[str, Any]:
    """Return the latency of the answers, and the server's own times of their stages."""
    stages: dict[str, list[float]] = {}
    for reply in asked.replies:
        for stage, milliseconds in reply.timings_ms.items():
            stages.setdefault(stage, []).append(milliseconds)
    seconds = np.array(asked.seconds or [math.nan])
    return {
        "answers": len(asked.replies),
        "answer_errors": asked.errors[:3],
        "frames_in_window_last": asked.replies[-1].num_frames if asked.replies else 0,
        "answer_s": {"median": round(float(np.median(seconds)), 2), "worst": round(float(seconds.max()), 2)},
        "stages_median_ms": {stage: round(float(np.median(values)), 1) for stage, values in stages.items()},
    }


if __name__ == "__main__":
    main()
