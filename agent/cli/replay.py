"""`vilamp replay`: store and encode the frames of a video file as the history of a camera, then ask about it.

This is called indexing, and runs as fast as the encoder can. A file in the data folder, the ledger, records which video
is in which camera's history. A video is therefore indexed only once, and an interrupted run continues where it stopped.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from agent.app import Agent, opened
from agent.ask.model import ModelUnusable
from agent.ask.question import Finished, Piece, Question, Searched, Seen, Step
from agent.cli.ask import checked_camera, print_reply, searched_line, time_of, window_of, zone_of
from agent.cli.camera_names import camera_name
from agent.cli.client import Citation, Reply, Visit
from agent.cli.common import EXIT_USAGE, CliError, model_options, say, settings_of
from agent.errors import NoFrames, Problem, UnclearScope
from agent.runtime.files import replace_private
from agent.settings.settings import CameraSettings, Settings
from agent.times import format_span, format_time
from agent.untrusted.plain import plain_line
from memory.errors import StorageError
from memory.offline import OfflineMemory
from model.config import ConfigError
from streaming.decoder import length_s
from streaming.errors import MediaError, shown
from streaming.frame import Frame, Source
from streaming.media import FileSource

LEDGER_FILE = "replays.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """The ledger's entry for one camera: the video in its history, and how the video was stored."""

    path: str
    size_bytes: int
    written: float  # when the file was last changed, unix seconds
    rate_hz: float
    start: float  # time of the first frame, unix seconds
    complete: bool = False

    @classmethod
    def of(
        cls, file: Path, rate_hz: float = 1.0, start: float | None = None, duration_s: float | None = None
    ) -> "Entry":
        """Return a new entry for a video file.

        start: time of the first frame in unix seconds; if None, the video is assumed to end when the file was last
        changed.
        """
        state = file.stat()
        begins = state.st_mtime - (duration_s or 0.0) if start is None else start
        return cls(str(file.resolve()), state.st_size, state.st_mtime, rate_hz, begins)

    def same_video(self, other: "Entry") -> bool:
        """Return True when both entries are for the same file, and it was not changed in between."""
        return (self.path, self.size_bytes, self.written) == (other.path, other.size_bytes, other.written)


def run(args: argparse.Namespace) -> int:
    """Store and encode the video file, then ask the given questions. Return the exit code. Raises CliError."""
    if args.camera is not None:
        checked_camera(args.camera)
    base = settings_of(args, {"model": model_options(args)})
    zone = zone_of(args)
    window = window_of(args, zone, time.time(), base)
    start = time_of("--start", args.start, zone, time.time(), base)
    try:
        duration_s = length_s(str(args.file))
        camera = args.camera or _own_camera(args.file, base)
        settings = _settings(args, base, camera)
        entry = Entry.of(args.file, settings.camera(camera).rate_hz, start, duration_s)
        return asyncio.run(_run(args, settings, camera, entry, duration_s, zone, window))
    except (MediaError, OSError, ModelUnusable, ConfigError, Problem) as error:  # StorageError is an OSError
        raise CliError(str(error)) from error


async def _run(
    args: argparse.Namespace, settings: Settings, camera: str, entry: Entry, duration_s: float | None, zone: str,
    window: tuple[float | None, float | None],
) -> int:  # fmt: skip
    code = 0
    async with opened(settings) as agent:
        await _index(agent, camera, entry, duration_s, zone, quiet=args.json)
        for text in args.ask:
            if not args.json:
                say(f"\n> {text}")
            try:
                reply = await _ask(agent, Question(text, (camera,), *window), zone, quiet=args.json)
            except (NoFrames, UnclearScope) as problem:  # the next question may be about another time
                say(f"vilamp replay: {plain_line(problem)}", file=sys.stderr)
                code = 1
                continue
            print_reply(reply, zone, as_json=args.json, question=text, everything=args.all_evidence)
    return code


def _settings(args: argparse.Namespace, base: Settings, camera: str) -> Settings:
    """Return the configuration with only this camera, so that a replay connects to no other camera.

    base: the configuration as loaded.
    """
    own = {**base.camera(camera).model_dump(), "url": None}
    if args.rate is not None:
        own["rate_hz"] = args.rate
    return base.model_copy(update={"cameras": {camera: CameraSettings.model_validate(own)}})


def _own_camera(file: Path, settings: Settings) -> str:
    """Return the camera that has this video in its history, or else a new camera name made from the file name."""
    ledger = _read_ledger(settings.data_dir / LEDGER_FILE)
    video = Entry.of(file)
    held = [name for name, entry in ledger.items() if entry.same_video(video)]
    if held:
        return min(held, key=lambda name: name != camera_name(file.stem))
    connected = {name for name, camera in settings.cameras.items() if camera.url is not None}
    return camera_name(file.stem, {*ledger, *connected, *_remembered(settings)})


def _remembered(settings: Settings) -> list[str]:
    """Return the cameras that have stored frames. Empty if the memory cannot be opened; the error is reported later."""
    try:
        with OfflineMemory(settings.data_dir / "memory") as memory:
            return memory.cameras()
    except StorageError:
        return []


async def _index(agent: Agent, camera: str, wanted: Entry, duration_s: float | None, zone: str, *, quiet: bool) -> None:
    """Store and encode the part of the video that no earlier run has stored, and record this in the ledger.

    Raises CliError.
    """
    ledger = agent.settings.data_dir / LEDGER_FILE
    known = _read_ledger(ledger).get(camera)
    stats = agent.store.stats(camera)
    if stats.frames and (known is None or not known.same_video(wanted)):
        held = f'holds "{shown(known.path)}"' if known else "has a history of its own"
        raise CliError(f'the camera "{camera}" already {held}: give another --camera', EXIT_USAGE)
    if stats.frames and known is not None:
        wanted = replace(known, complete=known.complete and stats.frames > 0)
    if wanted.complete and stats.encoded == stats.frames:
        if not quiet:
            say(f"{camera}: already indexed, {stats.frames} frames from {format_time(wanted.start, zone)}")
        return
    _write_ledger(ledger, camera, wanted)
    with _progress(quiet) as progress:
        damage, remarks = await _feed(agent, camera, wanted, duration_s, progress)
    _write_ledger(ledger, camera, replace(wanted, complete=True))
    stats = agent.store.stats(camera)
    if stats.frames == 0:
        raise CliError(damage or "no frame could be read from the video")
    for warning in [damage, *remarks]:
        if warning:
            say(f"warning: {warning}", file=sys.stderr)
    if not quiet:
        span = format_span((stats.newest or 0.0) - (stats.oldest or 0.0))
        say(f"{camera}: {stats.frames} frames, {span} of video")


async def _feed(
    agent: Agent, camera: str, entry: Entry, duration_s: float | None, progress: Progress
) -> tuple[str | None, list[str]]:
    """Store and encode the video's frames at the configured rate.

    Return a message about damage to the file (or None), and messages about timestamps that had to be repaired.
    """
    settings = replace(agent.cameras.frame_settings(camera), rate_hz=entry.rate_hz)
    source = FileSource(entry.path, camera, settings, pace="fast", start_time=entry.start)
    expected = None if duration_s is None else max(1, round(duration_s * entry.rate_hz))
    bar = progress.add_task("indexing", total=expected)
    if not entry.complete:
        fed = asyncio.create_task(agent.cameras.watch(camera, Remaining(source, agent.store.stats(camera).newest)))
        await _show(agent, camera, fed, progress, bar)
    encoded = asyncio.create_task(agent.encoded())
    progress.update(bar, total=agent.store.stats(camera).frames)
    await _show(agent, camera, encoded, progress, bar)
    damage = agent.cameras.intakes[camera].problem if camera in agent.cameras.intakes else None
    return damage, [f"{shown(entry.path)}: {words}" for words in source.stats.remarks.values()]


async def _show(agent: Agent, camera: str, work: "asyncio.Task[None]", progress: Progress, bar: Any) -> None:
    """Update the progress bar until `work` is done. Raise the exception of `work` if it fails."""
    while not work.done():
        progress.update(bar, completed=agent.store.stats(camera).encoded)
        await asyncio.wait([work], timeout=0.1)
    progress.update(bar, completed=agent.store.stats(camera).encoded)
    await work


class Remaining:
    """A source that skips the frames of another source up to the time `newest`, because they are stored already."""

    def __init__(self, source: Source, newest: float | None) -> None:
        self.camera = source.camera
        self.stats = source.stats
        self._source = source
        self._newest = newest

    async def frames(self) -> AsyncIterator[Frame]:
        """Yield the frames that are not stored yet."""
        async with aclosing(self._source.frames()) as frames:  # type: ignore[type-var]
            async for frame in frames:
                if self._newest is None or frame.time > self._newest:
                    yield frame

    async def close(self) -> None:
        """Close the other source."""
        await self._source.close()


def _progress(quiet: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=quiet)


async def _ask(agent: Agent, question: Question, zone: str, *, quiet: bool) -> Reply:
    """Ask one question and return the reply. Print the answer while it is written, unless `quiet`."""
    reply = Reply()
    async with agent.answering.ask(question) as events:
        async for event in events:
            match event:
                case Piece(text):
                    reply.text += text
                    if not quiet:
                        say(text, end="", flush=True)
                case Step(text):
                    reply.steps.append(text)
                case Searched():
                    reply.scope = asdict(event)
                    reply.coverage = reply.scope.pop("coverage")
                    if not quiet:
                        say(searched_line(reply.scope, zone, time.time()))
                case Seen():
                    reply.num_frames = event.num_frames
                    reply.citations = [Citation(**asdict(each), url="") for each in event.evidence]
                    reply.visits = [Visit(**asdict(each)) for each in event.visits]
                case Finished():
                    reply.finish_reason = event.finish_reason
                    reply.notes, reply.timings_ms = list(event.notes), dict(event.timings_ms)
    if not quiet:
        say()
    return reply


def _read_ledger(path: Path) -> dict[str, Entry]:
    """Return the ledger's entries by camera; {} if the ledger cannot be read.

    Even without the ledger no video is stored twice, because a camera that has frames but no entry is refused.
    """
    try:
        return {camera: Entry(**entry) for camera, entry in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write_ledger(path: Path, camera: str, entry: Entry) -> None:
    known = {**_read_ledger(path), camera: entry}
    replace_private(path, json.dumps({name: asdict(each) for name, each in known.items()}, indent=2).encode())
