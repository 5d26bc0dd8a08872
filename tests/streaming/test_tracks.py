"""Files with several video tracks, with none that can be decoded, or that only refer to other files."""

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from streaming.decoder import length_s
from streaming.errors import MediaError, MediaUnreadable, PictureTooLarge
from streaming.frame import Frame, FrameSettings
from streaming.media import FileSource, open_source
from tests.support.streams import picture, write_clip


async def read(path: Path | str) -> list[Frame]:
    source = FileSource(str(path), "door", FrameSettings(rate_hz=100.0), pace="fast", start_time=0.0)
    return [frame async for frame in source.frames()]


Track = tuple[int, int, int, int]  # width, height, frames, frames per second


def write_tracks(path: Path, tracks: Sequence[Track], aside: Disposition | None = None) -> Path:
    """A file with these tracks; the first is marked as `aside`."""
    with av.open(str(path), "w") as container:
        streams = []
        for index, (width, height, _, rate_hz) in enumerate(tracks):
            stream = container.add_stream("libx264", rate=rate_hz)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            if index == 0 and aside is not None:
                stream.disposition = aside
            streams.append(stream)
        for stream, (width, height, num, rate_hz) in zip(streams, tracks, strict=True):
            for index in range(num):
                frame = av.VideoFrame.from_ndarray(picture(index, width, height), format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, rate_hz)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(
    ("tracks", "best"),
    [
        ([(160, 90, 40, 10), (320, 180, 40, 10)], 1),  # a preview first
        ([(320, 180, 40, 10), (160, 90, 40, 10)], 0),
        ([(640, 360, 1, 10), (320, 180, 40, 10)], 1),  # a poster
        ([(320, 180, 2, 2), (160, 90, 80, 10)], 1),  # a sharp beginning only
        ([(160, 90, 60, 20), (320, 180, 3, 1)], 1),  # fewer pictures, but sharp and all along
    ],
)
async def test_the_track_that_shows_most(tmp_path: Path, suffix: str, tracks: list[Track], best: int) -> None:
    if suffix == ".mkv" and tracks[0][2] in (1, 2):
        pytest.skip("Matroska does not say how many frames or how long a track is")
    frames = await read(write_tracks(tmp_path / f"clip{suffix}", tracks))
    width, height, num, _ = tracks[best]
    assert {frame.image.shape for frame in frames} == {(height, width, 3)}
    assert len(frames) == num


@pytest.mark.parametrize("aside", [Disposition.timed_thumbnails, Disposition.still_image])
async def test_a_track_marked_as_cover_art_or_thumbnails(tmp_path: Path, aside: Disposition) -> None:
    path = write_tracks(tmp_path / "clip.mkv", [(640, 360, 10, 10), (160, 90, 30, 10)], aside)
    with av.open(str(path)) as container:
        if not container.streams.video[0].disposition & aside:
            pytest.skip("not kept by this container")
    assert {frame.image.shape for frame in await read(path)} == {(90, 160, 3)}


@pytest.mark.parametrize("suffix", [".mp4", ".m4v"])
async def test_cover_art_first(tmp_path: Path, suffix: str) -> None:
    """A large cover picture is the first stream, before a small film."""
    cover = io.BytesIO()
    Image.fromarray(np.full((600, 600, 3), 90, np.uint8)).save(cover, "JPEG")
    path = tmp_path / f"clip{suffix}"
    with av.open(str(path), "w", format="mp4") as container:
        art = container.add_stream("mjpeg", rate=1)
        art.width, art.height, art.pix_fmt = 600, 600, "yuvj420p"
        art.disposition = Disposition.attached_pic
        film = container.add_stream("libx264", rate=10)
        film.width, film.height, film.pix_fmt = 160, 120, "yuv420p"
        packet = av.Packet(cover.getvalue())
        packet.stream, packet.pts, packet.dts, packet.time_base = art, 0, 0, Fraction(1, 1)
        container.mux(packet)
        for index in range(30):
            container.mux(film.encode(av.VideoFrame.from_ndarray(picture(index), format="rgb24")))
        container.mux(film.encode())
    frames = await read(path)
    assert len(frames) == 30
    assert {frame.image.shape for frame in frames} == {(120, 160, 3)}


async def test_music_with_a_cover_is_not_a_video(tmp_path: Path) -> None:
    cover = io.BytesIO()
    Image.fromarray(picture(0)).save(cover, "JPEG")
    with av.open(str(tmp_path / "song.m4a"), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        art = container.add_stream("mjpeg", rate=1)
        art.width, art.height, art.pix_fmt = 160, 120, "yuvj420p"
        art.disposition = Disposition.attached_pic
        packet = av.Packet(cover.getvalue())
        packet.stream, packet.pts, packet.dts, packet.time_base = art, 0, 0, Fraction(1, 1)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux(sound.encode(silence))
        container.mux(packet)
        container.mux(sound.encode())
    with pytest.raises(MediaUnreadable, match="no video track, only a cover picture"):
        await read(tmp_path / "song.m4a")


async def test_a_resolution_that_changes_within_a_file(tmp_path: Path) -> None:
    parts = [write_clip(tmp_path / f"{width}.ts", num=10, size=(width, 96)).read_bytes() for width in (160, 64, 320)]
    (tmp_path / "all.ts").write_bytes(b"".join(parts))
    shapes = [frame.image.shape for frame in await read(tmp_path / "all.ts")]
    assert shapes == [(96, 160, 3)] * 10 + [(96, 64, 3)] * 10 + [(96, 320, 3)] * 10


async def test_a_file_with_nothing_but_a_picture(tmp_path: Path) -> None:
    Image.fromarray(picture(3)).save(tmp_path / "photo.jpg")
    assert len(await read(tmp_path / "photo.jpg")) == 1


def with_unknown_codec(path: Path, into: Path) -> Path:
    data = path.read_bytes()
    known, unknown = (b"V_MPEG4/ISO/AVC", b"V_NO/SUCH/CODEC") if path.suffix == ".mkv" else (b"avc1", b"zz01")
    assert known in data
    into.write_bytes(data.replace(known, unknown))
    return into


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
async def test_an_unknown_codec(tmp_path: Path, suffix: str) -> None:
    path = with_unknown_codec(write_clip(tmp_path / f"a{suffix}", num=5), tmp_path / f"b{suffix}")
    with pytest.raises(MediaUnreadable, match=r"codec of its video is not known.*convert it: ffmpeg"):
        await read(path)
    with pytest.raises(MediaUnreadable):
        length_s(str(path))


async def test_the_next_track_where_the_first_cannot_be_decoded(tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "a.mp4", [(320, 180, 10, 10), (160, 90, 20, 10)])
    data = bytearray(path.read_bytes())
    first = data.index(b"avc1", data.index(b"stsd"))
    data[first : first + 4] = b"zz01"
    (tmp_path / "b.mp4").write_bytes(data)
    frames = await read(tmp_path / "b.mp4")
    assert len(frames) == 20
    assert {frame.image.shape for frame in frames} == {(90, 160, 3)}


async def test_pictures_that_are_too_large_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    """The size in the header of a still is raised to 20,000 x 20,000."""
    image = io.BytesIO()
    Image.fromarray(picture(0)).save(image, "JPEG")
    data = bytearray(image.getvalue())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = (20_000).to_bytes(2, "big") * 2
    (tmp_path / "large.jpg").write_bytes(data)
    with pytest.raises((PictureTooLarge, MediaUnreadable)):
        await read(tmp_path / "large.jpg")


# Files that name other files


def indirections(folder: Path) -> dict[str, str]:
    clip = folder / "secret.ts"
    return {
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{clip}\n#EXT-X-ENDLIST\n",
        "relative.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nsecret.ts\n#EXT-X-ENDLIST\n",
        "posing.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{clip}\n#EXT-X-ENDLIST\n",
        "script.ffconcat": f"ffconcat version 1.0\nfile {clip}\n",
        "script.txt": "ffconcat version 1.0\nfile secret.ts\n",
        "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n",
        "show.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT4S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
        '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1000">'
        "<BaseURL>secret.ts</BaseURL></Representation></AdaptationSet></Period></MPD>",
        "shots%d.jpg": "x",
    }


@pytest.mark.parametrize("name", list(indirections(Path())))
async def test_a_file_that_names_other_files_is_refused(tmp_path: Path, name: str) -> None:
    write_clip(tmp_path / "secret.ts", num=20)
    for index in range(3):
        Image.fromarray(picture(index)).save(tmp_path / f"shots{index}.jpg")
    (tmp_path / name).write_text(indirections(tmp_path)[name])
    with pytest.raises(MediaUnreadable):
        await read(tmp_path / name)
    with pytest.raises(MediaUnreadable):
        length_s(str(tmp_path / name))


async def test_the_error_names_playlists(tmp_path: Path) -> None:
    (tmp_path / "list.m3u8").write_text(indirections(tmp_path)["list.m3u8"])
    with pytest.raises(MediaUnreadable, match="it is a playlist"):
        await read(tmp_path / "list.m3u8")


@pytest.mark.parametrize("name", ["notes.txt", "art.ans", "art.xb", "readme.nfo"])
async def test_a_text_is_not_a_video(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"XBIN\x1a" + b"\x1b[31mhello world\n" * 200)
    with pytest.raises(MediaUnreadable):
        await read(tmp_path / name)


NAMES = [
    "12:30.mp4", "rtsp:x.mp4", "http:x.mp4", "-x.mp4", "a%20b.mp4", "a%d.mp4", "%s%n.mp4", "Камера у ворот.mp4", "門カメラ.mp4",
    "a b'c\"d.mp4", "file:x.mp4", "concat:a|b.mp4", "x?y=1&z.mp4", "#1.mp4", "[::1].mp4", "data:,x.mp4", "new\nline.mp4", "*.mp4",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
async def test_a_file_name_is_never_taken_for_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_bytes(write_clip(tmp_path / "clip.mp4", num=3).read_bytes())
    assert len(await read(tmp_path / name)) == 3
    monkeypatch.chdir(tmp_path)
    assert len(await read(name)) == 3
    assert length_s(name) is not None


def test_addresses_in_capitals() -> None:
    assert open_source("RTSP://Host/Live", "a")._url == "rtsp://Host/Live"  # type: ignore[union-attr]
    assert open_source("HTTPS://Host/Live.M3U8", "a")._url == "https://Host/Live.M3U8"  # type: ignore[union-attr]
    assert open_source("WEBCAM:0", "a")._url == "/dev/video0"  # type: ignore[union-attr]
    assert open_source("FILE:///films/a%20b.mp4", "a")._path == "/films/a b.mp4"  # type: ignore[union-attr]
    assert open_source("file:///films/a#1?.mp4", "a")._path == "/films/a#1?.mp4"  # type: ignore[union-attr]
    for name in ("12:30.mp4", "rtsp:x.mp4", "a/b://c"):
        assert isinstance(open_source(name, "a"), FileSource)


def test_an_invalid_address_is_a_media_error() -> None:
    for url in ("gopher://ann:pw@host/live", "rtsp+x://host", "ftp://[::1"):
        with pytest.raises(MediaError, match=r"use rtsp://"):
            open_source(url, "a")


async def test_a_name_with_a_null_character_is_not_found(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", num=3)
    with pytest.raises(MediaError, match="no such file"):
        await read(f"{tmp_path}/clip.mp4\0.txt")
