"""Look at one camera for a few seconds: does it send pictures, in which codec, how many, and by which clock?"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from agent.cli.setup.findings import Finding
from agent.settings.settings import CameraSettings
from agent.times import format_span
from streaming.errors import MediaError
from streaming.frame import Frame, FrameSettings, Source
from streaming.media import open_source

FIRST_S = 10.0  # to the first picture: cameras take up to this long to send a key frame
WATCH_S = 3.0  # after it, for the frame rate and the camera's report of its clock
_POLL_S = 0.1


@dataclass(slots=True)
class Look:
    """What a camera sends. problem: why it sends nothing; "": it sends pictures."""

    problem: str = ""
    codec: str = ""
    width: int = 0
    height: int = 0
    rate_hz: float | None = None  # frames received a second
    sender_clock_s: float | None = None  # the camera's clock minus this machine's; None: it reports none
    picture: np.ndarray | None = None  # uint8 (H, W, 3) RGB, the newest


async def look_at(name: str, camera: CameraSettings) -> Look:
    """Open the camera's own connection, watch it for WATCH_S and close it. `camera.url` must be set."""
    settings = FrameSettings(rate_hz=camera.rate_hz, max_width=camera.max_width, stall_timeout_s=FIRST_S)
    try:
        source = open_source(camera.address, name, settings, transport=camera.transport, other_hosts=camera.other_hosts)
    except MediaError as error:
        return Look(problem=str(error))
    look = Look()
    watching = asyncio.ensure_future(_watch(source, source.frames(), look))
    try:
        await _until_seen(source, watching, look)
    except MediaError as error:
        look.problem = str(error)
    finally:
        watching.cancel()
        await source.close()
        await asyncio.wait([watching])
    stats = source.stats
    look.codec, look.width, look.height = stats.codec, stats.width, stats.height
    look.rate_hz, look.sender_clock_s = 1 / stats.interval_s if stats.interval_s else None, stats.sender_clock_s
    return look


async def _watch(source: Source, frames: AsyncIterator[Frame], look: Look) -> None:
    async for frame in frames:
        look.picture = frame.image


async def _until_seen(source: Source, watching: "asyncio.Future[None]", look: Look) -> None:
    """Wait for the first picture and WATCH_S more, or write into `look.problem` why none came. Raises MediaError."""
    loop = asyncio.get_running_loop()
    began, first = loop.time(), None
    while not watching.done():
        await asyncio.sleep(_POLL_S)
        now = loop.time()
        if first is None and look.picture is not None:
            first = now
        if first is not None and now - first >= WATCH_S:
            return
        if first is None and (source.stats.state == "reconnecting" or now - began >= FIRST_S):
            look.problem = source.stats.detail or f"no picture came within {FIRST_S:g} s"
            return
    watching.result()
    if look.picture is None:
        look.problem = source.stats.detail or "it ended without a picture"


def seen_by_agent(described: Mapping[str, Any]) -> Look:
    """Return what a running agent sees of a camera. described: the camera's JSON of `GET /v1/cameras`."""
    source = described.get("source") or {}
    return Look(
        problem=str(described.get("problem") or ""),
        codec=str(source.get("codec") or ""),
        width=int(source.get("width") or 0),
        height=int(source.get("height") or 0),
        rate_hz=source.get("rate_hz"),
        sender_clock_s=source.get("sender_clock_s"),
    )


def camera_finding(name: str, camera: CameraSettings, look: Look, max_skew_s: float) -> Finding:
    """Return what `look` says of a camera, with what to do about it. max_skew_s: largest error of a trusted clock."""
    part = f"camera {name}"
    if look.problem:
        return Finding("cameras", part, "error", look.problem, _advice(name, camera, look.problem))
    words = [look.codec] if look.codec else []
    words += [f"{look.width}x{look.height}"] if look.width else []
    words += [] if look.rate_hz is None else [f"{look.rate_hz:.3g} frames/s"]
    off_s = look.sender_clock_s
    if off_s is None:
        words.append("no clock of its own, so pictures have their time of arrival")
    elif abs(off_s) > max_skew_s:
        way = "ahead of" if off_s > 0 else "behind"
        words.append(f"its clock is {format_span(abs(off_s))} {way} this machine's, so it is not used")
        return Finding("clock", part, "warning", ", ".join(words), "set the same NTP server on the camera and here")
    else:
        words.append(f"clock within {max(0.1, abs(off_s)):.1f} s")
    if look.rate_hz is not None and look.rate_hz < 0.8 * camera.rate_hz:
        advice = f"raise its frame rate, or set cameras.{name}.rate_hz to {look.rate_hz:.2g}"
        return Finding("cameras", part, "warning", ", ".join(words), advice)
    return Finding("cameras", part, "ok", ", ".join(words))


def _advice(name: str, camera: CameraSettings, problem: str) -> str:
    if camera.url is None:
        return f"open the page's Publish view, or publish to /whip/{name}"
    if any(word in problem.lower() for word in ("401", "403", "unauthorized", "forbidden")):
        return f"correct user and password in cameras.{name}.url"
    return f"check cameras.{name}.url, that the camera is on, and that this machine reaches it (try VLC or ffplay)"
