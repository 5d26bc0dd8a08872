"""The whole path on a machine without cameras: RTSP servers, `vilamp init`, the agent, questions and a contact sheet.

    python -m tests.support.real [--out DIR] [--footage DIR] [--seconds N] [--encoder NAME]

The pictures are those of the clips in a folder, else of drawn videos. A vision server of this machine answers, else the
tests' own, which sees no more than which pictures it was sent. Prints what was found and how long each step took.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import av
import numpy as np

from agent.cli.ask import best
from agent.cli.client import Client, Reply
from agent.cli.demo.server import serving
from agent.cli.setup.servers import find_servers
from agent.cli.sheet import Section, Tile, write_sheet
from agent.times import format_time, local_zone_name
from model.hub import RECOMMENDED, on_disk
from model.world.video import write_video
from tests.support.network import free_port
from tests.support.rtsp import RtspServer, rtsp_server
from tests.support.vlm_server import spying

ROOT = Path(__file__).parents[2]
RATE_HZ = 4.0  # pictures a second of each camera
MOST_CAMERAS = 3
MOST_PICTURES = 240  # of a clip: a minute, then from its beginning
WIDTH = 640
QUESTIONS = ("What can be seen now?", "What happened in the last minute?", "Was there a person?")


def read_clip(path: Path) -> list[np.ndarray]:
    """Return RATE_HZ pictures a second of a clip, uint8 (H, W, 3), WIDTH pixels wide, at most MOST_PICTURES."""
    pictures: list[np.ndarray] = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if frame.time is not None and frame.time * RATE_HZ >= len(pictures):
                height = max(2, round(WIDTH * frame.height / frame.width / 2) * 2)
                pictures.append(frame.reformat(WIDTH, height, "rgb24").to_ndarray())
                if len(pictures) == MOST_PICTURES:
                    break
    return pictures


def drawn_clips(out: Path) -> list[Path]:
    """Write two short videos of the drawn world, and return their paths."""
    paths = [out / "yard.mp4", out / "gate.mp4"]
    for seed, path in enumerate(paths):
        write_video(path, seed=seed, minutes=0.5, rate_hz=RATE_HZ, style="fixed", on_frame=lambda done, total: None)
    return paths


def looped(pictures: list[np.ndarray]) -> Callable[[int], np.ndarray]:
    """Return a function that gives the picture of a number, from the beginning again after the last."""
    return lambda number: pictures[number % len(pictures)]


@asynccontextmanager
async def cameras(clips: list[Path]) -> AsyncIterator[dict[str, RtspServer]]:
    """Serve each clip as an RTSP camera named after it."""
    async with AsyncExitStack() as stack:
        servers = {}
        for clip in clips:
            name = "".join(c if c.isalnum() else "-" for c in clip.stem.lower()).strip("-")
            pictures = await asyncio.to_thread(read_clip, clip)
            servers[name] = await stack.enter_async_context(rtsp_server(rate_hz=RATE_HZ, pictures=looped(pictures)))
        yield servers


@contextmanager
def answering() -> Iterator[tuple[str, str]]:
    """Yield base address and model of a vision server on this machine, else of the tests' own."""
    for server in asyncio.run(find_servers(["127.0.0.1"])):
        for model in server.vision_models():
            if model.sees:
                print(f"vision server: {model.name} on {server.kind} at {server.base_url}")
                yield server.base_url, model.name
                return
    print("vision server: none was found, so the tests' own answers; only the way to it is real")
    with spying() as spy:
        yield spy.url(), "sees"


async def vilamp(*args: str) -> int:
    """Run a command with its output on this terminal, and return its exit code."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "agent.cli", *args, cwd=ROOT, env=env)
    return await process.wait()


def ask_all(url: str, token: str, names: list[str], seconds: float) -> list[Section]:
    """Wait for frames, ask QUESTIONS, print the answers, and return them with their evidence."""
    sections = []
    with Client(url, token) as client:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if all(client.get_json(f"/v1/cameras/{name}")["encoded"] >= seconds for name in names):
                break
            time.sleep(0.5)
        for question in QUESTIONS:
            *_, reply = client.ask(question)
            assert isinstance(reply, Reply)
            first_s = reply.timings_ms.get("first_token", 0.0) / 1000
            print(
                f"\n{question}\n  {reply.text.strip()}  ({len(reply.citations)} pictures, {first_s:.1f} s to the first word)"
            )
            tiles = [
                Tile(client.get_bytes(each.url), f"{each.camera} {format_time(each.time, local_zone_name())}")
                for each in best(reply.citations, 8)
            ]
            sections.append(Section(question, reply.text.strip(), tiles))
    return sections


async def run(args: argparse.Namespace, base_url: str, model: str) -> int:
    out: Path = args.out
    began = time.monotonic()
    took: dict[str, float] = {}
    found = sorted(args.footage.glob("*.mp4"))[:MOST_CAMERAS] if args.footage.is_dir() else []
    print(f"cameras: {len(found)} clips of {args.footage}" if found else "cameras: drawn videos")
    clips = found or await asyncio.to_thread(drawn_clips, out)
    encoder = args.encoder or (RECOMMENDED if on_disk(RECOMMENDED) else "builtin")
    print(
        f"encoder: {encoder}{' (knows drawn pictures only; fetch a real one: vilamp model fetch)' * (encoder == 'builtin')}"
    )
    async with cameras(clips) as servers:
        took["cameras"] = time.monotonic() - began
        config, started = out / "vilamp.yaml", time.monotonic()
        options = [f"--camera={name}={server.url}" for name, server in servers.items()]
        options += ["--server", base_url, "--model", model, "--encoder", encoder, "--port", str(free_port())]
        code = await vilamp("init", str(config), *options, "--data-dir", str(out / "data"), "--yes", "--force")
        took["vilamp init, to the first answer"] = time.monotonic() - started
        if code:
            return code
        started = time.monotonic()
        async with serving(["--config", str(config)], out / "data", out / "server.log", os.environ) as server:
            took["start of the agent"] = time.monotonic() - started
            started = time.monotonic()
            names = list(servers)
            sections = await asyncio.to_thread(ask_all, server.url, server.ask_token, names, args.seconds)
            took["questions"] = time.monotonic() - started
            started = time.monotonic()
            code = await vilamp("doctor", "--config", str(config))
            took["vilamp doctor"] = time.monotonic() - started
    write_sheet(out / "real.png", sections)
    print(f"\ncontact sheet: {out / 'real.png'}")
    for step, seconds in {**took, "all": time.monotonic() - began}.items():
        print(f"  {step:<34} {seconds:6.1f} s")
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/real"))
    parser.add_argument("--footage", type=Path, default=ROOT.parent / "shared" / "footage")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each camera before the questions")
    parser.add_argument("--encoder", help="folder, hub id or builtin")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with answering() as (base_url, model):
        return asyncio.run(run(args, base_url, model))


if __name__ == "__main__":
    sys.exit(main())
