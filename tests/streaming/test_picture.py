"""Conversion to RGB: only of kept frames, at most at the asked size, for any metadata of the frame."""

import asyncio
import fractions
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from aiortc import MediaStreamTrack
from PIL import Image

from streaming import media, picture, session
from streaming.errors import MediaUnreadable, PictureTooLarge
from streaming.frame import FrameSettings, SourceStats
from streaming.media import FileSource
from streaming.picture import fitted_size, to_rgb
from streaming.publisher import publish
from tests.support.clips import encoded, write_raw
from tests.support.streams import TOKEN, index_of, take, track, whip_site, write_clip
from tests.support.streams import picture as picture_of
from tests.support.waiting import until


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Record the size of every converted frame."""
    seen: list[tuple[int, int]] = []

    def counted(frame: av.VideoFrame, *args: Any) -> np.ndarray:
        seen.append((frame.width, frame.height))
        return to_rgb(frame, *args)

    monkeypatch.setattr(session, "to_rgb", counted)
    monkeypatch.setattr(media, "to_rgb", counted)
    return seen


async def test_a_publishers_frames_are_converted_only_when_kept(conversions: list[tuple[int, int]]) -> None:
    async with (
        whip_site(frames=FrameSettings(rate_hz=3.0)) as site,
        publish(site.url(), TOKEN, track(rate_hz=30.0), client=site.client),
    ):
        source = site.sources[0]
        frames = await take(source.frames(), 4)
        assert source.stats.received >= 20
        assert len(conversions) <= source.stats.kept
        assert len(frames) == 4


async def test_a_files_frames_are_converted_only_when_kept(tmp_path: Path, conversions: list[tuple[int, int]]) -> None:
    source = FileSource(str(write_clip(tmp_path / "clip.mp4")), "door", FrameSettings(rate_hz=1.0), pace="fast")
    frames = [frame async for frame in source.frames()]
    assert source.stats.received == 40
    assert len(frames) == len(conversions) == 4


async def test_a_frame_that_is_absurdly_large_ends_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "MAX_PIXELS", 100 * 100)
    async with whip_site() as site, publish(site.url(), TOKEN, track(), client=site.client):
        source = site.sources[0]
        assert await take(source.frames(), 1) == []
        assert "lower the resolution" in source.stats.detail
        await until(lambda: site.server.counters.closed == {"too_large": 1})


def test_sizes() -> None:
    assert fitted_size(1920, 1080, 960, 960) == (960, 540)
    assert fitted_size(640, 480, 1920, 1080) == (640, 480)
    assert fitted_size(10_000, 1, 100, 100) == (100, 1)
    frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")
    assert to_rgb(frame, 32, 32).shape == (24, 32, 3)
    with pytest.raises(PictureTooLarge):
        to_rgb(av.VideoFrame(9000, 9000, "yuv420p"), 1920, 1080)


# Whatever a frame says of its colours, shape and orientation


def grey_frame(format_name: str = "yuv420p", width: int = 64, height: int = 48) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, format_name)
    for plane in frame.planes:
        plane.update(bytes([128]) * plane.buffer_size)
    return frame


def test_every_matrix_and_range_gives_a_picture() -> None:
    for matrix in range(40):
        for color_range in range(5):
            frame = grey_frame()
            frame.colorspace, frame.color_range = matrix, color_range
            frame.color_primaries = frame.color_trc = matrix
            image = to_rgb(frame, 32, 32)
            assert image.shape == (24, 32, 3)
            if matrix:  # 0 is RGB itself
                assert abs(float(image.mean()) - 128) < 10


CANNOT_BE_CONVERTED = 40  # formats, of about 270; today 37


def test_every_pixel_format_gives_a_picture_or_a_media_error() -> None:
    refused = []
    for name in sorted(av.video.format.names):
        for size in ((64, 48), (1, 1), (2, 1), (1, 3), (5, 7)):
            try:
                frame = av.VideoFrame(*size, name)
                for plane in frame.planes:
                    plane.update(bytes(plane.buffer_size))
            except av.FFmpegError:
                continue  # lives on another device
            try:
                image = to_rgb(frame, 640, 640)
            except MediaUnreadable as error:
                refused.append((name, str(error)))
            else:
                assert image.shape == (size[1], size[0], 3)
    assert all(name in words for name, words in refused)
    never = {name for name, count in Counter(name for name, _ in refused).items() if count == 5}
    assert not never & {
        "yuv420p",
        "yuvj420p",
        "yuv422p10le",
        "nv12",
        "pal8",
        "gray",
        "gray16le",
        "xyz12le",
        "bayer_rggb8",
    }
    assert len(never) < CANNOT_BE_CONVERTED


async def unusual_colours(num: int, matrix: int) -> list[av.Packet]:
    pictures = [picture_of(index) for index in range(num)]
    return encoded(pictures, rate_hz=10, filters=f"h264_metadata=matrix_coefficients={matrix}")


@pytest.mark.parametrize("matrix", [3, 8, 10, 13, 17, 255])
async def test_a_file_with_an_unknown_matrix_is_read(tmp_path: Path, matrix: int) -> None:
    path = write_raw(tmp_path / "odd.h264", await unusual_colours(12, matrix))
    source = FileSource(str(path), "door", FrameSettings(rate_hz=100.0), pace="fast")
    frames = [frame async for frame in source.frames()]
    assert [index_of(frame.image) for frame in frames] == list(range(12))


class PacketsTrack(MediaStreamTrack):
    """A track that sends the same encoded packets over and over."""

    kind = "video"

    def __init__(self, packets: list[av.Packet], rate_hz: float) -> None:
        super().__init__()
        self._packets, self._rate_hz, self._num_sent = packets, rate_hz, 0

    async def recv(self) -> av.Packet:
        await asyncio.sleep(1 / self._rate_hz)
        packet = av.Packet(bytes(self._packets[self._num_sent % len(self._packets)]))
        packet.pts = packet.dts = int(self._num_sent * 90_000 / self._rate_hz)
        packet.time_base = fractions.Fraction(1, 90_000)
        self._num_sent += 1
        return packet


async def test_frames_of_a_publisher_with_an_unknown_matrix_are_kept() -> None:
    sent = PacketsTrack(await unusual_colours(10, 8), rate_hz=20.0)
    async with whip_site() as site, publish(site.url(), TOKEN, sent, codec="H264", client=site.client):
        frames = await take(site.sources[0].frames(), 2)
    assert {frame.image.shape for frame in frames} == {(120, 160, 3)}


async def test_a_picture_that_cannot_be_converted_ends_only_its_session(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(picture, "orientation_of", fail)
    async with whip_site() as site, publish(site.url(), TOKEN, track(), client=site.client):
        source = site.sources[0]
        assert await take(source.frames(), 1) == []
        assert "cannot be converted (Operation not supported)" in source.stats.detail
        await until(lambda: site.server.counters.closed == {"failed": 1})


@pytest.mark.parametrize("fault", [OSError("x"), ValueError("x"), AttributeError("x"), av.error.BugError(1, "x")])
def test_every_class_of_fault_becomes_a_media_error(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    def fail(*args: Any) -> None:
        raise fault

    monkeypatch.setattr(picture, "orientation_of", fail)
    with pytest.raises(MediaUnreadable, match="64x48 pixels in the format yuv420p cannot be converted"):
        to_rgb(grey_frame(), 32, 32)


ORIENTATIONS = [  # degrees counter-clockwise, mirrored, flipped; where the red corner of the stored picture is shown
    (0, False, False), (0, True, False), (0, False, True), (180, False, False),
    (90, False, False), (-90, False, False), (90, True, False), (90, False, True),
]  # fmt: skip


def corner_clip(path: Path, prepare: Callable[[av.VideoStream], None]) -> Path:
    """Three pictures, 64x48, with a red top left quarter and a green top right one."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        prepare(stream)
        image = np.zeros((48, 64, 3), np.uint8)
        image[:24, :32], image[:24, 32:] = (220, 20, 20), (20, 220, 20)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def corners(image: np.ndarray) -> str:
    """Return the colours of the four corners, row by row: r(ed), g(reen) or - (black)."""
    height, width = image.shape[0] // 4, image.shape[1] // 4
    quarters = [image[:height, :width], image[:height, -width:], image[-height:, :width], image[-height:, -width:]]
    return "".join("-" if q.max() < 100 else "rg"[int(q[..., 1].mean() > q[..., 0].mean())] for q in quarters)


async def first_picture(path: Path, stats: list[SourceStats] | None = None, **settings: int) -> np.ndarray:
    source = FileSource(str(path), "door", FrameSettings(rate_hz=100.0, **settings), pace="fast")
    frames = [frame async for frame in source.frames()]
    if stats is not None:
        stats.append(source.stats)
    return frames[0].image


@pytest.mark.parametrize(("degrees", "mirrored", "flipped"), ORIENTATIONS)
async def test_all_eight_orientations(tmp_path: Path, degrees: int, mirrored: bool, flipped: bool) -> None:
    path = corner_clip(
        tmp_path / "clip.mp4", lambda stream: stream.set_display_rotation(degrees, hflip=mirrored, vflip=flipped)
    )
    wanted = np.rot90(np.array([["r", "g"], ["-", "-"]]), degrees // 90)
    wanted = wanted[:: -1 if flipped else 1, :: -1 if mirrored else 1]
    image = await first_picture(path)
    assert image.shape == ((64, 48, 3) if degrees in (90, -90) else (48, 64, 3))
    assert corners(image) == "".join(wanted.ravel())


ONE = 1 << 16
NONSENSE = {
    "nothing": (0, 0, 0, 0, 0, 0, 0, 0, 0),
    "singular": (ONE, ONE, 0, ONE, ONE, 0, 0, 0, 1 << 30),
    "half a quarter turn": (ONE, ONE, 0, -ONE, ONE, 0, 0, 0, 1 << 30),
    "flat": (ONE, 0, 0, 0, 1, 0, 0, 0, 1 << 30),
    "two axes on one": (ONE, 0, 0, ONE, 0, 0, 0, 0, 1 << 30),
    "extreme": (-(1 << 31), 7, 7, 7, 7, -(1 << 31), 7, 7, 7),
}


@pytest.mark.parametrize("name", NONSENSE)
async def test_an_invalid_display_matrix_is_ignored_and_reported(tmp_path: Path, name: str) -> None:
    path = corner_clip(tmp_path / "clip.mp4", lambda stream: stream.set_display_matrix(NONSENSE[name]))
    stats: list[SourceStats] = []
    assert corners(await first_picture(path, stats)) == "rg--"
    assert "display matrix makes no sense" in " ".join(stats[0].remarks.values())


def test_a_slight_tilt_is_upright() -> None:
    cos, sin = round(0.995 * ONE), round(0.1 * ONE)
    assert picture._orientation(struct.pack("=9i", cos, sin, 0, -sin, cos, 0, 0, 0, 1 << 30)) == picture.UPRIGHT


@pytest.mark.parametrize(
    ("orientation", "wanted"),
    [(1, "rg--"), (2, "gr--"), (3, "--gr"), (4, "--rg"), (5, "r-g-"), (6, "-r-g"), (7, "-g-r"), (8, "g-r-")],
)
async def test_the_orientation_of_a_photograph(tmp_path: Path, orientation: int, wanted: str) -> None:
    """Exif of a JPEG: the eight values."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24, :32], image[:24, 32:] = (220, 20, 20), (20, 220, 20)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(image).save(tmp_path / "photo.jpg", exif=exif, quality=95)
    assert corners(await first_picture(tmp_path / "photo.jpg")) == wanted


@pytest.mark.parametrize(
    ("aspect", "suffix", "turned", "shape"),
    [
        ("2/1", ".mp4", 0, (48, 128)), ("1/2", ".mkv", 0, (96, 64)), ("16/11", ".ts", 0, (48, 93)),
        ("2/1", ".mp4", 90, (128, 48)), ("4/3", ".h264", 0, (48, 85)), ("1/1", ".mp4", 0, (48, 64)),
    ],
)  # fmt: skip
async def test_pixels_become_square(
    tmp_path: Path, aspect: str, suffix: str, turned: int, shape: tuple[int, int]
) -> None:
    def prepare(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = fractions.Fraction(aspect)
        if turned:
            stream.set_display_rotation(turned)

    path = corner_clip(tmp_path / f"clip{suffix}", prepare)
    assert (await first_picture(path)).shape[:2] == shape
    small = await first_picture(path, max_width=32, max_height=32)
    assert max(small.shape[:2]) == 32


async def test_an_absurd_pixel_aspect_is_ignored_and_reported(tmp_path: Path) -> None:
    def prepare(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = fractions.Fraction(20, 1)

    stats: list[SourceStats] = []
    assert (await first_picture(corner_clip(tmp_path / "clip.mkv", prepare), stats)).shape == (48, 64, 3)
    assert "20 times as wide as high" in " ".join(stats[0].remarks.values())


@pytest.mark.parametrize(("size", "shape"), [((2160, 3840), (3840, 2160)), ((3840, 2160), (2160, 3840))])
def test_a_picture_at_the_size_limit_is_kept_in_any_orientation(size: tuple[int, int], shape: tuple[int, int]) -> None:
    assert to_rgb(av.VideoFrame(*size, "gray"), 3840, 3840).shape[:2] == shape


def interlaced_clip(path: Path) -> Path:
    """Write a clip of a bar that moves by 4 pixels from field to field."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.options = {"x264-params": "tff=1:interlaced=1", "bf": "0"}
        for index in range(30):
            image = np.full((240, 320, 3), 30, np.uint8)
            for field in (0, 1):
                left = (2 * index + field) * 4 % 240
                image[field::2, left : left + 60] = 220
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, fractions.Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


async def test_interlaced_video_is_stored_without_combs(tmp_path: Path) -> None:
    source = FileSource(str(interlaced_clip(tmp_path / "clip.ts")), "door", FrameSettings(rate_hz=100.0), pace="fast")
    frames = await take(source.frames(), 25)
    await source.close()
    lines = frames[-1].image[..., 0].astype(int)
    combs = np.abs(2 * lines[1:-1] - lines[:-2] - lines[2:]).mean()
    assert combs < 1.0  # as decoded: 9.8
    assert lines.max() > 200
