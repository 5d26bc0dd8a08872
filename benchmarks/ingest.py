"""Measure what is kept of video that WebRTC clients publish, one after the other, with and without loss on the way.

    python -m benchmarks.ingest [--seconds 20] [--only clients loss] [--full]

The clients are those that are installed: Chromium, GStreamer, FFmpeg, werift, libdatachannel (NODE_PATH=.../node_modules). Each
publishes pictures with a bar code of the time, so that every kept frame tells how old it is and whether it is damaged.
One frame a second is kept. Loss is made by a UDP relay between Chromium and the receiver. `--full` adds 720p30.
"""

import argparse
import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any
from unittest.mock import patch

from benchmarks.machine import add_out, machine, measured_path, show, write_result
from streaming.frame import Frame, FrameSettings
from streaming.reception import Reception
from tests.support import chromium_whip, whip_clients
from tests.support.browser import CHROMIUM
from tests.support.relay import Network, relayed
from tests.support.streams import TOKEN, whip_site
from tests.support.timed_pictures import age_s, read
from tests.support.waiting import until

Publishing = Callable[[str], AbstractAsyncContextManager[None]]
SIZES = {"360p15": (640, 360, 15), "720p30": (1280, 720, 30)}
CLIENTS = {
    "gstreamer": whip_clients.gstreamer,
    "ffmpeg": whip_clients.ffmpeg,
    "werift": whip_clients.werift,
    "libdatachannel": whip_clients.libdatachannel,
}
SETTLE_S = 3.0
OUTAGE_AFTER_S = 3.0
CONNECT_S = 30.0


@dataclass(frozen=True, slots=True)
class Loss:
    """What the network does during a measurement."""

    name: str
    loss: float = 0.0
    jitter_s: float = 0.0
    outage_s: float = 0.0


LOSSES = (
    Loss("none"),
    Loss("5 %", loss=0.05),
    Loss("10 %, 300 ms jitter", loss=0.10, jitter_s=0.3),
    Loss("2 s outage", outage_s=2.0),
    Loss("6 s outage", outage_s=6.0),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement. `error_ms`: median age of the pictures at the time that their frames carry."""

    client: str
    codec: str
    size: str
    network: str
    kept: int
    expected: int
    smeared_unmarked: int
    marked: int
    error_ms: int | None
    clock: str
    packets_lost: int
    key_frames_requested: int
    end: str


async def measure(
    publishing: Publishing, names: dict[str, str], network: Network | None, loss: Loss, seconds: float
) -> Row:
    """Publish for some seconds and return what was kept."""
    frames: list[Frame] = []
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(whip_site(frames=FrameSettings(rate_hz=1.0)))
        url = site.url() if network is None else await stack.enter_async_context(relayed(site.url(), network))
        await stack.enter_async_context(publishing(url))
        await until(lambda: bool(site.sources) and site.sources[0].stats.received > 0, CONNECT_S)
        source = site.sources[0]

        async def keep() -> None:
            async for frame in source.frames():
                frames.append(frame)  # noqa: PERF401 - read while it grows

        stack.callback(asyncio.create_task(keep()).cancel)
        await asyncio.sleep(SETTLE_S)
        first = len(frames)
        if network is not None:
            network.loss, network.jitter_s = loss.loss, loss.jitter_s
            if loss.outage_s:
                await asyncio.sleep(OUTAGE_AFTER_S)
                network.down = True
                await asyncio.sleep(loss.outage_s)
                network.down = False
                await asyncio.sleep(seconds - OUTAGE_AFTER_S - loss.outage_s)
            else:
                await asyncio.sleep(seconds)
        else:
            await asyncio.sleep(seconds)
        kept, stats = frames[first:], source.stats
        ends = list(site.server.counters.closed)
    drawn = [(read(frame.image), frame) for frame in kept]
    errors = [age_s(ms, frame.time) for (ms, wrong), frame in drawn if ms is not None and not wrong]
    return Row(
        **names, network=loss.name, kept=len(kept), expected=round(seconds),
        smeared_unmarked=sum(wrong and not frame.damaged for (_, wrong), frame in drawn),
        marked=sum(frame.damaged for frame in kept), error_ms=round(1000 * median(errors)) if errors else None,
        clock=stats.clock or "", packets_lost=stats.packets_lost, key_frames_requested=stats.key_frames_requested,
        end=", ".join(ends),
    )  # fmt: skip


def _chromium(codec: str, size: str) -> Publishing:
    return lambda url: chromium_whip.publishing(url, TOKEN, codec, *SIZES[size])


async def clients(seconds: float) -> tuple[list[Row], dict[str, str]]:
    """Return the measurements of all clients that are installed, and what is missing for the others."""
    rows: list[Row] = []
    absent = {name: words for name in CLIENTS if (words := whip_clients.missing(name)) is not None}
    if CHROMIUM is None:
        absent["chromium"] = "apt-get install chromium"
    for name in ("chromium", *CLIENTS):
        for codec in ("VP8", "H264"):
            if name in absent or (name, codec) == ("ffmpeg", "VP8"):  # its WHIP muxer takes H.264 only
                continue
            publishing = _chromium(codec, "360p15")
            if name in CLIENTS:
                publishing = partial(_publish, CLIENTS[name], codec)
            names = {"client": name, "codec": codec, "size": "360p15"}
            rows.append(await attempt(publishing, names, None, LOSSES[0], seconds))
    return rows, absent


def _publish(client: Any, codec: str, url: str) -> AbstractAsyncContextManager[None]:
    publishing: AbstractAsyncContextManager[None] = client(url, TOKEN, codec, *SIZES["360p15"])
    return publishing


def _nothing(self: Reception, ssrc: int, now: float) -> list[int]:
    return []


async def losses(seconds: float, sizes: list[str]) -> list[Row]:
    """Return the measurements of Chromium over lossy networks.

    Without NACK, the receiver asks for no repetition. Leaving NACK out of the offer is not enough: Chromium repeats
    packets all the same.
    """
    rows: list[Row] = []
    for size in sizes:
        for codec in ("VP8", "H264"):
            for asks in (True, False):
                for loss in LOSSES:
                    names = {"client": "chromium" if asks else "chromium, no NACK", "codec": codec, "size": size}
                    with nullcontext() if asks else patch.object(Reception, "missing", _nothing):
                        rows.append(await attempt(_chromium(codec, size), names, Network(), loss, seconds))
    return rows


async def attempt(
    publishing: Publishing, names: dict[str, str], network: Network | None, loss: Loss, seconds: float
) -> Row:
    """Measure and print. A client that does not connect has kept nothing."""
    try:
        row = await measure(publishing, names, network, loss, seconds)
    except TimeoutError:
        row = Row(**names, network=loss.name, kept=0, expected=round(seconds), smeared_unmarked=0, marked=0,
                  error_ms=None, clock="", packets_lost=0, key_frames_requested=0, end="no picture within 30 s")  # fmt: skip
    print(json.dumps(asdict(row)), flush=True)
    return row


def table(rows: list[Row]) -> str:
    """Return the measurements as a table in Markdown."""
    lines = [
        "| client | codec | size | loss | kept of expected | smeared | marked | time error | end |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        error = "" if row.error_ms is None else f"{row.error_ms} ms"
        lines.append(
            f"| {row.client} | {row.codec} | {row.size} | {row.network} | {row.kept} of {row.expected} "
            f"| {row.smeared_unmarked} | {row.marked} | {error} | {row.end or 'none'} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--only", nargs="+", choices=["clients", "loss"], default=["clients", "loss"])
    parser.add_argument("--full", action="store_true", help="the losses at 720p30 too")
    add_out(parser)
    args = parser.parse_args()
    here = machine()
    show(here)
    measured: dict[str, Any] = {"seconds": args.seconds}
    rows: list[Row] = []
    if "clients" in args.only:
        rows, absent = asyncio.run(clients(args.seconds))
        measured |= {"clients": [asdict(row) for row in rows], "not_installed": absent}
        for name, words in absent.items():
            print(f"{name} is not measured: {words}")
    if "loss" in args.only:
        lossy = asyncio.run(losses(args.seconds, list(SIZES) if args.full else ["360p15"]))
        measured["loss"] = [asdict(row) for row in lossy]
        rows = [*rows, *lossy]
    print(table(rows))
    write_result(measured_path(args.out, "bench-ingest.json"), here, measured)


if __name__ == "__main__":
    main()
