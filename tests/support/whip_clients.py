"""WHIP clients that nobody here wrote, publishing timed pictures: GStreamer, FFmpeg, werift and libdatachannel.

Each is a context manager that publishes during the block: `client(url, token, codec, width, height, rate_hz)`. `missing()`
names what must be installed for one. werift and libdatachannel are packages for Node.js; FFmpeg's program encodes for them.
"""

import asyncio
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.support.ffmpeg_whip import write_certificate
from tests.support.timed_pictures import draw_i420, now_ms

HERE = Path(__file__).parent
SYSTEM_PYTHON = "/usr/bin/python3"
NODE_MODULES = Path(os.environ.get("NODE_PATH", "node_modules"))
_PIPE, _NULL = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
_CHECK_GSTREAMER = """
import gi
gi.require_version("Gst", "1.0"); gi.require_version("GstWebRTC", "1.0")
from gi.repository import Gst, GstWebRTC
Gst.init(None)
missing = [name for name in ("webrtcbin", "nicesrc", "vp8enc", "x264enc") if not Gst.ElementFactory.find(name)]
raise SystemExit(" ".join(missing) or 0)
"""
_ENCODERS = {
    "VP8": [
        "-c:v",
        "libvpx",
        "-deadline",
        "realtime",
        "-lag-in-frames",
        "0",
        "-threads",
        "1",
        "-cpu-used",
        "8",
        "-b:v",
        "1500k",
        "-g",
        "30",
    ],
    "H264": ["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-b:v", "1500k", "-g", "30"],
}


@functools.cache
def ffmpeg_program() -> str | None:
    """Return the path of an FFmpeg with a WHIP muxer: the package imageio-ffmpeg carries one."""
    found = [shutil.which("ffmpeg")]
    with suppress(ImportError):
        import imageio_ffmpeg

        found.append(imageio_ffmpeg.get_ffmpeg_exe())
    for path in filter(None, found):
        muxers = subprocess.run([path, "-hide_banner", "-muxers"], capture_output=True, text=True, timeout=60).stdout
        if "whip" in muxers:
            return path
    return None


@functools.cache
def missing(client: str) -> str | None:
    """Return what must be installed for a client, None if nothing."""
    if client == "gstreamer":
        with suppress(subprocess.TimeoutExpired, FileNotFoundError):
            command = [SYSTEM_PYTHON, "-c", _CHECK_GSTREAMER]
            if subprocess.run(command, capture_output=True, timeout=60).returncode == 0:
                return None
        return (
            "apt-get install gstreamer1.0-tools gstreamer1.0-nice gstreamer1.0-plugins-{good,bad,ugly} "
            "python3-gi gir1.2-gst-plugins-bad-1.0"
        )
    if ffmpeg_program() is None:
        return "pip install imageio-ffmpeg"
    package = {"werift": "werift", "libdatachannel": "node-datachannel"}.get(client)
    if package is not None and (shutil.which("node") is None or not (NODE_MODULES / package).exists()):
        return f"npm install {package}, and NODE_PATH=.../node_modules"
    return None


async def _feed(stream: asyncio.StreamWriter, width: int, height: int, rate_hz: int) -> None:
    """Write pictures as raw I420 when they are due, until the reader ends."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    with suppress(ConnectionError):
        while True:
            stream.write(draw_i420(now_ms(), width, height))
            await stream.drain()
            due = max(due + 1 / rate_hz, loop.time() - 1.0)
            await asyncio.sleep(max(0.0, due - loop.time()))


@asynccontextmanager
async def _fed(command: list[str], width: int, height: int, rate_hz: int) -> AsyncIterator[None]:
    """Run a program with pictures as its input during the block."""
    process = await asyncio.create_subprocess_exec(*command, stdin=_PIPE, stdout=_NULL, stderr=_NULL)
    assert process.stdin is not None
    feeding = asyncio.create_task(_feed(process.stdin, width, height, rate_hz))
    try:
        yield
    finally:
        feeding.cancel()
        await asyncio.wait([feeding])
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


@asynccontextmanager
async def gstreamer(url: str, token: str, codec: str, width: int, height: int, rate_hz: int) -> AsyncIterator[None]:
    script = str(HERE / "gstreamer_whip.py")
    command = [SYSTEM_PYTHON, script, url, token, codec, str(width), str(height), str(rate_hz)]
    async with _fed(command, width, height, rate_hz):
        yield


def _raw(width: int, height: int, rate_hz: int) -> list[str]:
    program = ffmpeg_program()
    assert program is not None
    size = ["-s", f"{width}x{height}", "-framerate", str(rate_hz)]
    return [program, "-hide_banner", "-probesize", "32", "-f", "rawvideo", "-pix_fmt", "yuv420p", *size, "-i", "pipe:0"]


@asynccontextmanager
async def ffmpeg(url: str, token: str, codec: str, width: int, height: int, rate_hz: int) -> AsyncIterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = write_certificate(Path(folder))
        to = [
            "-bf",
            "0",
            "-f",
            "whip",
            "-authorization",
            token,
            "-cert_file",
            str(certificate),
            "-key_file",
            str(key),
            url,
        ]
        async with _fed([*_raw(width, height, rate_hz), *_ENCODERS[codec], *to], width, height, rate_hz):
            yield


@asynccontextmanager
async def _node(
    script: str, url: str, token: str, codec: str, width: int, height: int, rate_hz: int
) -> AsyncIterator[None]:
    environ = {**os.environ, "NODE_PATH": str(NODE_MODULES.resolve())}
    command = ["node", str(HERE / script), url, token, codec]
    process = await asyncio.create_subprocess_exec(*command, stdout=_PIPE, stderr=_NULL, env=environ)
    assert process.stdout is not None
    try:
        port = (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()
        to = ["-bf", "0", "-payload_type", "96", "-ssrc", "42", "-f", "rtp", f"rtp://127.0.0.1:{port}?pkt_size=1200"]
        async with _fed([*_raw(width, height, rate_hz), *_ENCODERS[codec], *to], width, height, rate_hz):
            yield
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


werift = functools.partial(_node, "werift_whip.cjs")
libdatachannel = functools.partial(_node, "libdatachannel_whip.cjs")
