"""Files and RTSP cameras: real clips, real damage, and a real RTSP server on loopback with many failures."""

import asyncio
import itertools
import logging
import math
import shutil
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.backoff import backoff_s
from streaming.clock import FileTimes
from streaming.decoder import length_s
from streaming.errors import MediaDamaged, MediaError, MediaNotFound, MediaUnreadable
from streaming.frame import Frame, FrameSettings
from streaming.media import FileSource, LiveSource, Transport, open_source
from streaming.redact import redact
from tests.support.rtsp import rtsp_server
from tests.support.streams import index_of, take, write_clip
from tests.support.waiting import until

FOOTAGE = Path(__file__).resolve().parents[3] / "shared" / "footage"
START = 1_700_000_000.0
EVERY = FrameSettings(rate_hz=math.inf)


def footage(name: str) -> str:
    path = FOOTAGE / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return str(path)


async def everything(source: FileSource | LiveSource) -> list[Frame]:
    return [frame async for frame in source.frames()]


async def collect(source: FileSource, into: list[Frame]) -> None:
    """Return all frames and the error that ended them, if any."""
    async for frame in source.frames():
        into.append(frame)  # noqa: PERF401


def replay(path: str | Path, rate_hz: float = 1.0, **settings: int) -> FileSource:
    source = open_source(
        str(path), "door", FrameSettings(rate_hz=rate_hz, **settings), pace="fast", start_time=START
    )  # fmt: skip
    assert isinstance(source, FileSource)
    return source


# Files


async def test_a_file_is_sampled_by_its_own_timestamps(tmp_path: Path) -> None:
    source = replay(write_clip(tmp_path / "clip.mp4", num=40, rate_hz=10), rate_hz=2.0)
    frames = await everything(source)
    assert [round(frame.time - START, 3) for frame in frames] == [0.5 * i for i in range(8)]
    assert [index_of(frame.image) for frame in frames] == [i * 5 % 20 for i in range(8)]
    assert {frame.clock for frame in frames} == {"file"}
    assert (source.stats.received, source.stats.kept, source.stats.dropped) == (40, 8, 0)
    assert source.stats.state == "ended"


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".mkv", "libx264"), (".ts", "libx264"), (".webm", "libvpx"), (".avi", "mpeg4"), (".mp4", "libx265")],
)
async def test_containers_and_codecs(tmp_path: Path, suffix: str, codec: str) -> None:
    frames = await everything(replay(write_clip(tmp_path / f"clip{suffix}", codec=codec, num=20), rate_hz=math.inf))
    assert len(frames) == 20
    assert [index_of(frame.image) for frame in frames] == list(range(20))
    assert all(b.time > a.time for a, b in itertools.pairwise(frames))


async def test_fast_replay_waits_for_its_consumer_and_loses_nothing(tmp_path: Path) -> None:
    source = replay(write_clip(tmp_path / "clip.mp4", num=30), rate_hz=math.inf)
    taken = []
    async for frame in source.frames():
        await asyncio.sleep(0.005)
        taken.append(frame)
        assert source.stats.received == len(taken)  # nothing is decoded ahead of the consumer
    assert [index_of(frame.image) for frame in taken] == [i % 20 for i in range(30)]
    assert source.stats.dropped == 0


async def test_paced_replay_yields_frames_when_they_are_due(tmp_path: Path) -> None:
    now, slept = START, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(round(seconds, 3))
        now += seconds

    clip = write_clip(tmp_path / "clip.mp4", num=40, rate_hz=10)
    source = FileSource(str(clip), "door", FrameSettings(rate_hz=1.0), now=lambda: now, sleep=sleep)
    times = []
    async for frame in source.frames():
        times.append(round(frame.time - START, 3))
        now += 0.25 if len(times) < 3 else 2.0  # a consumer that becomes too slow: late, but nothing is lost
    assert times == [0.0, 1.0, 2.0, 3.0]
    assert slept == [0.0, 0.75, 0.75, 0.0]


async def test_downscaling_keeps_the_aspect(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", num=3, size=(320, 180))
    frames = await everything(replay(clip, rate_hz=math.inf, max_width=160, max_height=160))
    assert {frame.image.shape for frame in frames} == {(90, 160, 3)}


async def test_a_video_of_a_rotated_phone_is_shown_upright(tmp_path: Path) -> None:
    """Write the display matrix of phones into the file: rotate by 90 degrees clockwise."""
    data = bytearray(write_clip(tmp_path / "clip.mp4", num=3).read_bytes())
    one = (0x00010000).to_bytes(4, "big")
    minus_one = (0xFFFF0000).to_bytes(4, "big")
    nothing = bytes(4)
    upright = one + nothing * 3 + one + nothing * 3 + (0x40000000).to_bytes(4, "big")
    turned = nothing + one + nothing + minus_one + nothing * 4 + (0x40000000).to_bytes(4, "big")
    track_header = data.index(b"tkhd")
    matrix = data.index(upright, track_header)
    data[matrix : matrix + len(turned)] = turned
    (tmp_path / "turned.mp4").write_bytes(data)
    (frame, *_) = await everything(replay(tmp_path / "turned.mp4", rate_hz=math.inf))
    assert frame.image.shape == (160, 120, 3)
    red = frame.image[:, :, 0].astype(int) - frame.image[:, :, 1]
    assert red[120:].mean() > 100 > 20 > abs(red[:40].mean())  # the right half, red, lies below now


async def test_files_that_are_missing_empty_or_not_videos(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is not a film\n" * 100)
    cases: list[tuple[Path, type[MediaError], str]] = [
        (tmp_path / "none.mp4", MediaNotFound, "no such file; check the path"),
        (tmp_path / "empty.mp4", MediaUnreadable, "the file is empty"),
        (tmp_path / "text.mp4", MediaUnreadable, "cannot be read as video.*convert it"),
        (tmp_path, MediaUnreadable, "name a video file"),
    ]
    for path, kind, words in cases:
        source = replay(path)
        with pytest.raises(kind, match=words):
            await everything(source)
        assert source.stats.state == "failed"
        assert source.stats.detail


async def test_a_file_with_sound_only(tmp_path: Path) -> None:
    import av
    import numpy as np

    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(MediaUnreadable, match="no video track"):
        await everything(replay(path))


async def test_a_truncated_file_yields_its_frames_and_then_an_error(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "a.mp4", num=100, options={"movflags": "faststart"})
    data = whole.read_bytes()
    (tmp_path / "half.mp4").write_bytes(data[: len(data) * 6 // 10])
    source = replay(tmp_path / "half.mp4")
    frames: list[Frame] = []
    with pytest.raises(MediaDamaged, match=r"truncated or damaged.*were kept.*ffmpeg"):
        await collect(source, frames)
    assert 3 <= len(frames) < 10
    assert [index_of(frame.image) for frame in frames] == [i * 10 % 20 for i in range(len(frames))]
    assert source.stats.kept == len(frames)


async def test_a_file_whose_index_is_missing(tmp_path: Path) -> None:
    """The most common broken recording: an MP4 that was never closed."""
    data = write_clip(tmp_path / "a.mp4", num=100).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaUnreadable, match="wait for its end"):
        await everything(replay(tmp_path / "cut.mp4"))


async def test_damage_in_the_middle_loses_only_damaged_frames(tmp_path: Path) -> None:
    data = bytearray(write_clip(tmp_path / "a.ts", num=100).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 188 * 12] = bytes(188 * 12)
    (tmp_path / "b.ts").write_bytes(data)
    source = replay(tmp_path / "b.ts")
    frames = await everything(source)
    assert len(frames) >= 8
    assert frames[-1].time - START == pytest.approx(9.0, abs=0.11)


async def test_a_playlist_may_not_fetch_addresses(tmp_path: Path) -> None:
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(MediaUnreadable):
        await everything(replay(playlist))


async def test_closing_early_ends_the_iteration_and_the_thread(tmp_path: Path) -> None:
    source = replay(write_clip(tmp_path / "clip.mp4"), rate_hz=math.inf)
    frames = source.frames()
    assert await anext(frames)
    await source.close()
    assert [frame async for frame in frames] == []
    assert source.stats.state == "closed"
    await until(lambda: not any(thread.name == "file-door" for thread in threading.enumerate()))


def test_a_hundred_unused_sources_use_no_thread() -> None:
    before = threading.active_count()
    sources = [open_source(f"rtsp://camera{i}.example/live", f"c{i}") for i in range(100)]
    sources += [open_source(f"/films/{i}.mp4", f"f{i}") for i in range(100)]
    assert threading.active_count() == before
    assert all(source.stats.received == 0 for source in sources)


@pytest.mark.parametrize(
    ("name", "seconds", "size"),
    [
        ("bottles_table.mp4", 40, (360, 640)),
        ("robot_corridor_1fps.mp4", 84, (384, 512)),
        ("intersection_30fps.mp4", 17, (360, 640)),
    ],
)
async def test_real_clips(name: str, seconds: int, size: tuple[int, int]) -> None:
    frames = await everything(replay(footage(name), rate_hz=1.0))
    assert abs(len(frames) - seconds) <= 1
    assert {frame.image.shape[:2] for frame in frames} == {size}
    offsets = [frame.time - START for frame in frames]
    assert all(abs(offset - i) < 0.55 for i, offset in enumerate(offsets))
    assert all(frame.image.std() > 10 for frame in frames)


async def test_real_hevc_in_1080p() -> None:
    source = replay(footage("retail_store_1080p.mp4"), rate_hz=1.0, max_width=960, max_height=960)
    frames = await take(source.frames(), 4)
    await source.close()
    assert {frame.image.shape for frame in frames} == {(540, 960, 3)}
    assert [round(frame.time - START, 2) for frame in frames] == [0.0, 1.0, 2.0, 3.0]
    assert (source.stats.width, source.stats.height) == (1920, 1080)
    assert length_s(footage("retail_store_1080p.mp4")) == pytest.approx(20.1, abs=0.1)


async def test_a_real_clip_cut_in_half(tmp_path: Path) -> None:
    original = footage("bottles_table.mp4")
    cut = tmp_path / "cut.mp4"
    shutil.copyfile(original, cut)
    with cut.open("r+b") as file:
        file.truncate(Path(original).stat().st_size // 2)
    source = replay(cut)
    with pytest.raises(MediaError, match="ffmpeg"):
        await everything(source)


def test_file_times_worked_example() -> None:
    times = FileTimes(100.0, 0.04)
    given_s = [5.0, 5.04, None, 5.12, 0.0, 0.04]
    assert [round(times.next(media_s), 6) for media_s in given_s] == [100, 100.04, 100.08, 100.12, 100.16, 100.2]


@given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=50), st.floats(0.01, 10.0))
def test_file_times_rise_strictly(media: list[float | None], interval_s: float) -> None:
    times = FileTimes(START, interval_s)
    made = [times.next(media_s) for media_s in media]
    assert all(b > a for a, b in itertools.pairwise(made))


# Live cameras


async def no_sleep(seconds: float) -> None:
    await asyncio.sleep(0)


async def test_rtsp_frames_carry_the_cameras_clock() -> None:
    async with rtsp_server(sender_offset_s=-0.7) as rtsp:
        source = open_source(rtsp.url, "door", EVERY)
        frames = source.frames()
        async for frame in frames:
            if frame.clock == "sender":
                break
        assert frame.image.shape == (120, 160, 3)
        assert -1.9 < frame.time - time.time() < 0.0
        assert source.stats.state == "live"
        await frames.aclose()  # type: ignore[attr-defined]
    assert source.stats.state == "closed"


async def test_the_largest_accepted_skew_is_a_setting() -> None:
    async with rtsp_server(sender_offset_s=10.0) as rtsp:
        source = open_source(rtsp.url, "door", FrameSettings(rate_hz=math.inf, max_skew_s=20.0))
        frames = source.frames()
        async for frame in frames:
            if frame.clock == "sender":
                break
        assert 5.0 < frame.time - time.time() < 11.0
        await frames.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize("offset_s", [None, 3600.0])
async def test_rtsp_with_a_wrong_clock_uses_arrival_times(offset_s: float | None) -> None:
    async with rtsp_server(sender_offset_s=offset_s) as rtsp:
        source = open_source(rtsp.url, "door", EVERY)
        frames = await take(source.frames(), 8)
        await source.close()
    assert {frame.clock for frame in frames} == {"arrival"}
    assert abs(frames[-1].time - time.time()) < 5.0


async def test_rtsp_reconnects_for_ever_and_times_keep_rising() -> None:
    """The camera hangs up after every 12 frames."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    async with rtsp_server(frames_per_connection=12, rate_hz=40.0) as rtsp:
        source = LiveSource(
            rtsp.url, "door", FrameSettings(rate_hz=20.0), options=[{"rtsp_transport": "tcp"}],
            sleep=sleep, fraction=lambda: 0.5,
        )  # fmt: skip
        times = []
        async for frame in source.frames():
            times.append(frame.time)
            if rtsp.num_connections >= 4 and source.stats.reconnects >= 3:
                break
        await source.close()
    assert all(b > a for a, b in itertools.pairwise(times))
    assert slept[:3] == [0.75, 1.5, 3.0]  # each connection was short: the backoff grows
    assert source.stats.dropped == 0


async def test_a_silent_camera_is_reconnected() -> None:
    async with rtsp_server(frames_per_connection=20, rate_hz=40.0, then_silent=True) as rtsp:
        settings = FrameSettings(rate_hz=40.0, stall_timeout_s=1.0)
        source = LiveSource(rtsp.url, "door", settings, options=[{"rtsp_transport": "tcp"}], sleep=no_sleep)
        async for _ in source.frames():
            if rtsp.num_connections >= 2:
                break
        assert source.stats.stalls >= 1
        await source.close()


async def test_a_dead_host_is_retried_for_ever_without_showing_its_password(caplog: pytest.LogCaptureFixture) -> None:
    tries = 0

    async def sleep(seconds: float) -> None:
        nonlocal tries
        assert 0.5 <= seconds <= 60.0
        tries += 1
        await asyncio.sleep(0)

    with caplog.at_level(logging.DEBUG):
        source = LiveSource("rtsp://ann:s3cret@127.0.0.1:9/live?password=s3cret", "door", EVERY, sleep=sleep)
        waiting = asyncio.create_task(everything(source))
        await until(lambda: tries >= 12)
        assert source.stats.state == "reconnecting"
        assert "refused" in source.stats.detail.lower()
        assert source.stats.reconnects >= 11
        await source.close()
        assert await waiting == []
    assert "127.0.0.1" in caplog.text
    assert "s3cret" not in caplog.text + source.stats.detail
    await until(lambda: not any(thread.name == "live-door" for thread in threading.enumerate()))


async def test_a_camera_with_a_password() -> None:
    async with rtsp_server(password="pa55") as rtsp:
        source = open_source(rtsp.url, "door", EVERY)
        assert await take(source.frames(), 1)
        await source.close()
        wrong = LiveSource(rtsp.url.replace("pa55", "wr0ng"), "door", EVERY, sleep=no_sleep)
        waiting = asyncio.create_task(everything(wrong))
        await until(lambda: wrong.stats.reconnects > 0)
        assert "401" in wrong.stats.detail or "authorization" in wrong.stats.detail.lower()
        assert "wr0ng" not in wrong.stats.detail
        await wrong.close()
        await waiting


@pytest.mark.parametrize(
    ("transport", "udp_only", "asked"),
    [("auto", True, ["tcp", "udp"]), ("auto", False, ["tcp"]), ("udp", True, ["udp"]), ("tcp", False, ["tcp"])],
)
async def test_rtsp_over_udp_where_the_camera_or_the_setting_wants_it(
    transport: Transport, udp_only: bool, asked: list[str]
) -> None:
    async with rtsp_server(udp_only=udp_only) as rtsp:
        source = open_source(rtsp.url, "door", EVERY, transport=transport)
        assert len(await take(source.frames(), 3)) == 3
        assert rtsp.asked == asked
        await source.close()


async def test_a_camera_that_refuses_the_only_transport_is_reported() -> None:
    async with rtsp_server(udp_only=True) as rtsp:
        source = open_source(rtsp.url, "door", EVERY, transport="tcp")
        waiting = asyncio.create_task(everything(source))
        await until(lambda: source.stats.state == "reconnecting")
        assert "transport: auto tries TCP and UDP" in source.stats.detail
        await source.close()
        await waiting


async def test_a_slow_consumer_of_a_camera_gets_the_newest() -> None:
    async with rtsp_server(rate_hz=60.0) as rtsp:
        source = open_source(rtsp.url, "door", FrameSettings(rate_hz=math.inf, handoff_frames=1))
        frames = source.frames()
        first = await anext(frames)
        await until(lambda: source.stats.received >= 40)
        late = [await anext(frames) for _ in range(2)]
        assert source.stats.dropped >= 30
        assert late[-1].time - first.time > 0.4
        await source.close()


async def test_a_webcam_that_is_not_there() -> None:
    source = open_source("webcam:/dev/no-such-camera", "desk")
    waiting = asyncio.create_task(everything(source))
    await until(lambda: source.stats.state == "reconnecting")
    assert "no-such-camera" in source.stats.detail
    await source.close()
    await waiting


# Addresses, waits, settings


def test_addresses() -> None:
    assert isinstance(open_source("rtsp://host/live", "a"), LiveSource)
    assert isinstance(open_source("webcam:0", "a"), LiveSource)
    assert isinstance(open_source("http://host/live.m3u8", "a"), LiveSource)
    assert isinstance(open_source("film.mp4", "a"), FileSource)
    assert isinstance(open_source("file:///films/my%20film.mp4", "a"), FileSource)
    with pytest.raises(ValueError, match=r"gopher://\*\*\*@host"):
        open_source("gopher://ann:pw@host/live", "a")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://ann:pw@host:554/a?x=1&password=b&channel=2", "rtsp://***@host:554/a?x=1&password=***&channel=2"),
        ("rtsp://ann:p@w/x@host/a", "rtsp://***@host/a"),
        ("rtsp://ann:p?w@host/a", "rtsp://***@host/a"),
        ("rtsp://host/a", "rtsp://host/a"),
        ("https://host/a?token=abc", "https://host/a?token=***"),
        ("/films/a.mp4", "/films/a.mp4"),
    ],
)
def test_redaction(url: str, shown: str) -> None:
    assert redact(url) == shown


def test_backoff_worked_examples() -> None:
    assert [backoff_s(0, 0.0), backoff_s(0, 1.0)] == [0.5, 1.0]
    assert [backoff_s(3, 0.0), backoff_s(3, 1.0)] == [4.0, 8.0]
    assert [backoff_s(10, 0.0), backoff_s(10, 1.0), backoff_s(10_000, 1.0)] == [30.0, 60.0, 60.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate_hz": 0},
        {"max_width": 4},
        {"stall_timeout_s": 0},
        {"handoff_frames": 0},
        {"stall_timeout_s": math.inf},
        {"max_skew_s": -1.0},
    ],
)
def test_frame_settings_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        FrameSettings(**wrong)  # type: ignore[arg-type]
