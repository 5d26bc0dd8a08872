"""What an HTTP address may be: a live stream in bursts, Motion JPEG of any form, a still picture, or a file."""

import asyncio
import datetime
import itertools
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from streaming.clock import BurstClock
from streaming.errors import MediaDamaged
from streaming.frame import Frame, FrameSettings
from streaming.http_input import Newest, newest_segment
from streaming.jpegs import Splitter
from streaming.media import LiveSource, open_source
from tests.support.clips import write_timed
from tests.support.streams import index_of, jpeg, take, write_clip
from tests.support.waiting import until
from tests.support.web import Answer, Web, web

SEGMENT_S, RATE_HZ = 1.5, 10
NOW = 1_700_000_000.0


@pytest.fixture
def camera() -> Iterator[Web]:
    with web() as site:
        yield site


def opened(url: str, rate_hz: float = math.inf, **settings: float) -> LiveSource:
    source = open_source(url, "door", FrameSettings(rate_hz=rate_hz, handoff_frames=64, **settings))  # type: ignore[arg-type]
    assert isinstance(source, LiveSource)
    return source


@asynccontextmanager
async def sending(send: Callable[[asyncio.StreamWriter], Awaitable[None]], head: str) -> AsyncIterator[str]:
    """Serve a response with the header lines `head`, whose body `send` writes. Yield the address."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.0 200 OK\r\n{head}\r\n".encode())
            await send(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/live"
    finally:
        server.close()


# --- live streams in bursts ---


def live_playlist(camera: Web, folder: Path, num: int, *, dates: bool) -> float:
    """Serve a playlist that grows in real time, of segments that begin every SEGMENT_S. Return when the first began."""
    frames_each = round(SEGMENT_S * RATE_HZ)
    for index in range(num):
        times = [index * SEGMENT_S + i / RATE_HZ for i in range(frames_each)]
        camera.pages[f"/{index}.ts"] = (200, {}, write_timed(folder / f"{index}.ts", times).read_bytes())
    began = time.time() - 3 * SEGMENT_S

    def page(handler: BaseHTTPRequestHandler) -> Answer:
        done = min(num, int((time.time() - began) / SEGMENT_S))
        lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:2", f"#EXT-X-MEDIA-SEQUENCE:{done - 3}"]
        for index in range(done - 3, done):
            moment = datetime.datetime.fromtimestamp(began + index * SEGMENT_S, datetime.UTC)
            lines += [f"#EXT-X-PROGRAM-DATE-TIME:{moment.isoformat()}"] if dates else []
            lines += [f"#EXTINF:{SEGMENT_S},", f"{index}.ts"]
        return 200, {}, "\n".join(lines).encode()

    camera.pages["/live.m3u8"] = page
    return began


@pytest.mark.parametrize("dates", [False, True])
async def test_hls_keeps_every_frame_at_its_own_time(camera: Web, tmp_path: Path, dates: bool) -> None:
    began = live_playlist(camera, tmp_path, 9, dates=dates)
    source = opened(camera.url("/live.m3u8"), rate_hz=5.0)
    frames = await asyncio.wait_for(take(source.frames(), 25), 30)
    await source.close()
    gaps = [later.time - earlier.time for earlier, later in itertools.pairwise(frames)]
    assert 0.1 < min(gaps) <= max(gaps) < 0.3  # at 5 Hz; by arrival, a segment would give one frame
    captured = [began + 2 * SEGMENT_S + index * 0.2 for index in range(25)]  # from the newest segment on
    errors = [frame.time - true for frame, true in zip(frames, captured, strict=True)]
    assert max(map(abs, errors)) < (0.01 if dates else SEGMENT_S + 0.3)
    assert {frame.clock for frame in frames} == {"sender" if dates else "arrival"}


async def test_a_stream_in_bursts_keeps_every_frame(tmp_path: Path) -> None:
    packets = write_clip(tmp_path / "clip.ts", num=60, rate_hz=RATE_HZ).read_bytes()

    async def send(writer: asyncio.StreamWriter) -> None:
        for start in range(0, len(packets), len(packets) // 6):  # a second of video each second
            writer.write(packets[start : start + len(packets) // 6])
            await writer.drain()
            await asyncio.sleep(1.0)

    async with sending(send, "Content-Type: video/mp2t\r\n") as url:
        source = opened(url, rate_hz=5.0)
        frames = await asyncio.wait_for(take(source.frames(), 25), 30)
        await source.close()
    gaps = [later.time - earlier.time for earlier, later in itertools.pairwise(frames)]
    assert 0.1 < min(gaps) <= max(gaps) < 0.3


def test_burst_clock_worked_example() -> None:
    clock = BurstClock(100.0)
    times = [clock.time(float(i), 102.0)[0] for i in range(3)] + [clock.time(float(i), 105.0)[0] for i in range(3, 6)]
    assert times == pytest.approx([100, 101, 102, 103, 104, 105], abs=0.01)


def test_burst_clock_follows_a_sender_whose_clock_is_slow_or_whose_timestamps_jump() -> None:
    clock = BurstClock(NOW)
    for second in range(10_000):
        slow = clock.time(second * 0.9999, NOW + second)[0]  # a second behind after 10,000
    assert NOW + 9_999 - slow < 0.2
    assert clock.time(5.0, NOW + 10_000) == (NOW + 10_000, "arrival")
    assert clock.time(6.0, NOW + 10_001) == (NOW + 10_001, "arrival")


@pytest.mark.parametrize("declared", [NOW - 3600, NOW + 60])
def test_burst_clock_ignores_an_implausible_declared_time(declared: float) -> None:
    assert BurstClock(NOW - 1, declared=declared).time(7.0, NOW) == (NOW - 1, "arrival")


def test_newest_segment_of_playlists() -> None:
    dated = "#EXTM3U\n#EXT-X-PROGRAM-DATE-TIME:2026-12-01T00:00:10.5Z\n#EXTINF:2.0,\na.ts\n#EXTINF:4,\nb.ts\n"
    begins = datetime.datetime(2026, 12, 1, 0, 0, 12, 500_000, datetime.UTC).timestamp()
    assert newest_segment(dated) == Newest(4.0, begins)
    assert newest_segment(dated.replace("10.5Z", "99Z")) == Newest(4.0, None)
    assert newest_segment(dated + "#EXT-X-ENDLIST\n") is None
    assert newest_segment("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nx.m3u8\n") is None


# --- files ---


@pytest.mark.parametrize("suffix", ["mp4", "ts", "m3u8"])
async def test_a_file_by_address_is_read_once_at_its_own_speed(camera: Web, tmp_path: Path, suffix: str) -> None:
    data = write_clip(tmp_path / "clip.ts", num=30).read_bytes()
    camera.pages["/clip.ts"] = (200, {}, data)
    camera.pages["/clip.mp4"] = (200, {"Accept-Ranges": "bytes"}, write_clip(tmp_path / "a.mp4", num=30).read_bytes())
    listed = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nclip.ts\n#EXT-X-ENDLIST\n"
    camera.pages["/clip.m3u8"] = (200, {}, listed.encode())
    source = opened(camera.url(f"/clip.{suffix}"), rate_hz=5.0)
    started = time.monotonic()
    frames = [frame async for frame in source.frames()]
    assert 2.4 < time.monotonic() - started < 6.0
    assert [index_of(frame.image) for frame in frames] == [i % 20 for i in range(0, 30, 2)]
    assert frames[-1].time - frames[0].time == pytest.approx(2.8, abs=0.01)
    assert (source.stats.state, source.stats.clock) == ("ended", "file")
    asked = len(camera.asked)
    await asyncio.sleep(1.2)
    assert len(camera.asked) == asked <= 8


async def test_a_slow_consumer_loses_no_frame_of_a_file(camera: Web, tmp_path: Path) -> None:
    camera.pages["/clip.ts"] = (200, {}, write_clip(tmp_path / "clip.ts", num=20).read_bytes())
    source = open_source(camera.url("/clip.ts"), "door", FrameSettings(rate_hz=math.inf, handoff_frames=1))
    seen: list[Frame] = []
    async for frame in source.frames():
        await asyncio.sleep(0.13)
        seen.append(frame)
    assert [index_of(frame.image) for frame in seen] == list(range(20))


async def test_a_truncated_file_by_address_is_not_read_again(camera: Web, tmp_path: Path) -> None:
    data = write_clip(tmp_path / "clip.mkv", num=40).read_bytes()
    camera.pages["/clip.mkv"] = (200, {}, data[: len(data) // 2])
    source = opened(camera.url("/clip.mkv"))
    with pytest.raises(MediaDamaged, match="truncated or damaged"):
        await take(source.frames(), 100)
    assert (source.stats.state, len(camera.asked)) == ("failed", 1)


async def test_a_live_stream_that_has_become_a_file_is_not_played_again(camera: Web, tmp_path: Path) -> None:
    camera.pages["/0.ts"] = (200, {}, write_clip(tmp_path / "0.ts", num=20).read_bytes())
    live = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n0.ts\n"
    camera.pages["/live.m3u8"] = lambda handler: (
        200, {}, (live if camera.paths().count("/live.m3u8") == 1 else live + "#EXT-X-ENDLIST\n").encode()
    )  # fmt: skip
    source = opened(camera.url("/live.m3u8"), stall_timeout_s=3.0)
    seen: list[Frame] = []

    async def collect() -> None:
        seen.extend([frame async for frame in source.frames()])

    collecting = asyncio.create_task(collect())
    await until(lambda: "has become a file" in source.stats.detail)
    await source.close()
    await collecting
    assert len(seen) == 20


# --- pictures ---

FORMS = {
    "parts with lengths": lambda data: b"--next\r\nContent-Length: %d\r\n\r\n" % len(data) + data + b"\r\n",
    "parts without lengths": lambda data: b"--next\r\nContent-Type: image/jpeg\r\n\r\n" + data + b"\r\n",
    "no boundary": lambda data: b"Content-Type: image/jpeg\r\n\r\n" + data + b"\r\n",
    "nothing between": lambda data: data,
}


@pytest.mark.parametrize("form", FORMS)
async def test_motion_jpeg_of_any_form_arrives_without_delay(form: str) -> None:
    sent: list[float] = []

    async def send(writer: asyncio.StreamWriter) -> None:
        for index in range(6):
            sent.append(time.time())
            writer.write(FORMS[form](jpeg(index)))
            await writer.drain()
            await asyncio.sleep(0.5)

    kind = "video/x-motion-jpeg" if form == "nothing between" else "multipart/x-mixed-replace"
    async with sending(send, f"Content-Type: {kind}\r\n") as url:
        source = opened(url)
        frames = await asyncio.wait_for(take(source.frames(), 4), 20)
        await source.close()
    assert [index_of(frame.image) for frame in frames] == [0, 1, 2, 3]
    assert max(frame.time - at for frame, at in zip(frames, sent, strict=False)) < 0.3


@pytest.mark.parametrize("kind", ["jpeg", "png", "without a length"])
async def test_a_still_picture_is_fetched_at_the_cameras_rate(camera: Web, tmp_path: Path, kind: str) -> None:
    shown = itertools.count()

    def picture(handler: BaseHTTPRequestHandler) -> Answer:
        data = jpeg(next(shown))
        if kind == "png":
            path = tmp_path / "picture.png"
            Image.fromarray(np.full((120, 160, 3), 40, np.uint8)).save(path)
            data = path.read_bytes()
        return 200, {"Content-Type": "image/jpeg"}, data

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(jpeg(next(shown)))
        await writer.drain()

    camera.pages["/snapshot"] = picture
    async with sending(send, "Content-Type: image/jpeg\r\n") as url:
        source = opened(url if kind == "without a length" else camera.url("/snapshot"), rate_hz=2.0)
        frames = await asyncio.wait_for(take(source.frames(), 6), 20)
        await source.close()
    gaps = [later.time - earlier.time for earlier, later in itertools.pairwise(frames)]
    assert 0.4 < sum(gaps) / len(gaps) < 0.8
    assert [index_of(frame.image) for frame in frames] == ([0] * 6 if kind == "png" else list(range(6)))
    assert source.stats.reconnects == 0


async def test_a_picture_that_cannot_be_decoded_is_counted(camera: Web) -> None:
    camera.pages["/snapshot"] = (200, {"Content-Type": "image/jpeg"}, b"\xff\xd8\xff\xd9")
    source = opened(camera.url("/snapshot"), rate_hz=10.0)
    waiting = asyncio.create_task(take(source.frames(), 1))
    await until(lambda: source.stats.decode_errors >= 2)
    assert "a picture of 4 bytes cannot be decoded" in source.stats.detail
    await source.close()
    assert await waiting == []


PICTURES = [jpeg(index) for index in range(3)]


@given(st.lists(st.integers(1, 700), min_size=1), st.binary(max_size=20).filter(lambda junk: b"\xff" not in junk))
def test_the_splitter_finds_whole_pictures_in_any_pieces(sizes: list[int], junk: bytes) -> None:
    stream, splitter, found = junk.join([b"", *PICTURES, b""]), Splitter(), []
    for size in itertools.cycle(sizes):
        found += splitter.feed(stream[:size])
        stream = stream[size:]
        if not stream:
            break
    assert found == PICTURES


@given(st.binary(max_size=300))
def test_the_splitter_takes_anything(data: bytes) -> None:
    for picture in Splitter().feed(data):
        assert picture.startswith(b"\xff\xd8")
        assert picture.endswith(b"\xff\xd9")


def test_a_picture_that_is_cut_off_is_left_out() -> None:
    assert list(Splitter().feed(PICTURES[0][:-100] + PICTURES[1])) == [PICTURES[1]]
