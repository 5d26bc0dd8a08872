"""HTTP cameras: a real server on loopback that streams, redirects, asks for passwords and serves playlists."""

import asyncio
import base64
import hashlib
import math
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from streaming.errors import MediaStalled
from streaming.frame import Frame, FrameSettings
from streaming.http_input import MAX_REQUESTS_TO_OPEN, HttpOpener, is_playlist
from streaming.media import LiveSource, open_source
from tests.support.clips import write_timed
from tests.support.streams import index_of, jpeg, take, write_clip
from tests.support.waiting import until
from tests.support.web import Answer, Web, web


@pytest.fixture
def camera() -> Iterator[Web]:
    with web() as site:
        yield site


@pytest.fixture
def other() -> Iterator[Web]:
    with web() as site:
        yield site


@pytest.fixture
def clip(tmp_path: Path) -> bytes:
    return write_clip(tmp_path / "clip.ts", num=20).read_bytes()


async def frames_of(url: str, num: int = 5, **options: bool) -> list[Frame]:
    source = open_source(
        url, "door", FrameSettings(rate_hz=math.inf, stall_timeout_s=5.0, handoff_frames=64), **options
    )  # type: ignore[arg-type]
    frames = await take(source.frames(), num)
    await source.close()
    return frames


async def why_not(url: str, **options: bool) -> str:
    """Return the reason why the source yields no frames."""
    source = open_source(url, "door", FrameSettings(stall_timeout_s=3.0), **options)  # type: ignore[arg-type]
    assert isinstance(source, LiveSource)
    waiting = asyncio.create_task(take(source.frames(), 1))
    await until(lambda: source.stats.state == "reconnecting" or waiting.done())
    detail = source.stats.detail
    await source.close()
    assert await waiting == []
    return detail


def playlist(*segments: str, head: str = "") -> bytes:
    body = "".join(f"#EXTINF:2,\n{segment}\n" for segment in segments)
    return f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n{head}{body}#EXT-X-ENDLIST\n".encode()


async def test_a_stream_over_http(camera: Web, clip: bytes) -> None:
    camera.pages["/live"] = (200, {}, clip)
    assert [index_of(frame.image) for frame in await frames_of(camera.url("/live"))] == [0, 1, 2, 3, 4]


async def test_motion_jpeg(camera: Web) -> None:
    parts = [b"--next\r\nContent-Type: image/jpeg\r\n\r\n" + jpeg(index) + b"\r\n" for index in range(8)]
    camera.pages["/mjpg"] = (200, {"Content-Type": "multipart/x-mixed-replace; boundary=next"}, b"".join(parts))
    assert len(await frames_of(camera.url("/mjpg"), 4)) == 4


async def test_a_file_whose_index_is_at_its_end(camera: Web, tmp_path: Path) -> None:
    data = write_clip(tmp_path / "clip.mp4", num=20).read_bytes()
    camera.pages["/clip.mp4"] = (200, {"Accept-Ranges": "bytes"}, data)
    assert [index_of(frame.image) for frame in await frames_of(camera.url("/clip.mp4"))] == [0, 1, 2, 3, 4]


async def test_a_redirect_on_the_same_host(camera: Web, clip: bytes) -> None:
    camera.pages["/"] = (302, {"Location": "/live"}, b"")
    camera.pages["/live"] = (200, {}, clip)
    assert await frames_of(camera.url("/"))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_another_host_is_not_followed(camera: Web, other: Web, clip: bytes, status: int) -> None:
    camera.pages["/"] = (status, {"Location": other.url("/live"), "Set-Cookie": "secret=1"}, b"")
    other.pages["/live"] = (200, {}, clip)
    said = await why_not(camera.url("/"))
    assert "leads to another host" in said
    assert "other_hosts: true" in said
    assert other.asked == []


async def test_a_redirect_to_another_host_where_that_is_allowed(camera: Web, other: Web, clip: bytes) -> None:
    camera.pages["/"] = (302, {"Location": other.url("/live"), "Set-Cookie": "secret=1; Path=/"}, b"")
    other.pages["/live"] = (200, {}, clip)
    url = camera.url("/").replace("//", "//ann:s3cret@")
    assert await frames_of(url, other_hosts=True)
    headers = {name.lower() for _, given in other.asked for name in given}
    assert not headers & {"cookie", "authorization"}
    assert camera.asked[0][1]["Authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1", "//[", "rtsp://127.0.0.1/x"]
)
async def test_a_redirect_to_something_that_is_not_http(camera: Web, target: str) -> None:
    camera.pages["/"] = (302, {"Location": target}, b"")
    assert await why_not(camera.url("/"))


async def test_redirects_in_a_circle(camera: Web) -> None:
    camera.pages["/"] = (302, {"Location": "/"}, b"")
    assert "more than 5 redirects" in await why_not(camera.url("/"))
    assert len(camera.asked) <= 12  # two connections


async def test_a_playlist_named_by_its_address_is_played(camera: Web, clip: bytes) -> None:
    camera.pages["/live.m3u8"] = (200, {}, playlist("a.ts"))
    for path in ("/live.m3u8?user=a", "/LIVE.M3U8", "/live.m3u8?token=a.b/c&x=1"):
        camera.pages[path] = camera.pages["/live.m3u8"]
    camera.pages["/a.ts"] = (200, {}, clip)
    camera.pages["/posing.m3u8"] = camera.pages["/a.ts"]  # no playlist at all
    for path in camera.pages:
        assert [index_of(frame.image) for frame in await frames_of(camera.url(path))] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("path", ["/video", "/video.mp4", "/x?.m3u8"])
async def test_a_playlist_at_an_address_of_a_video_is_refused(camera: Web, clip: bytes, path: str) -> None:
    kind = {"Content-Type": "application/vnd.apple.mpegurl"}
    camera.pages[path] = (200, kind, playlist(camera.url("/a.ts")))
    camera.pages["/a.ts"] = (200, {}, clip)
    assert await why_not(camera.url(path))
    assert "/a.ts" not in camera.paths()


async def test_segments_and_keys_of_other_hosts_are_refused(camera: Web, other: Web, clip: bytes) -> None:
    other.pages["/a.ts"] = (200, {}, clip)
    other.pages["/key"] = (200, {}, bytes(16))
    camera.pages["/a.ts"] = (200, {}, clip)
    camera.pages["/seg.m3u8"] = (200, {}, playlist(*[other.url("/a.ts")] * 5))
    camera.pages["/key.m3u8"] = (
        200,
        {},
        playlist("a.ts", head=f'#EXT-X-KEY:METHOD=AES-128,URI="{other.url("/key")}"\n'),
    )
    camera.pages["/map.m3u8"] = (200, {}, playlist("a.ts", head=f'#EXT-X-MAP:URI="{other.url("/a.ts")}"\n'))
    camera.pages["/top.m3u8"] = (200, {}, f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{other.url('/x.m3u8')}\n".encode())
    camera.pages["/file.m3u8"] = (200, {}, playlist("file:///etc/hostname"))
    for name in ("seg", "key", "map", "top", "file"):
        assert await why_not(camera.url(f"/{name}.m3u8"))
    assert other.asked == []


async def test_an_encrypted_playlist(camera: Web, clip: bytes) -> None:
    key, iv = b"0123456789abcdef", bytes(15) + b"\x01"
    padder = padding.PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    camera.pages["/a.ts"] = (200, {}, encryptor.update(padder.update(clip) + padder.finalize()) + encryptor.finalize())
    camera.pages["/key"] = (200, {}, key)
    head = f'#EXT-X-KEY:METHOD=AES-128,URI="key",IV=0x{iv.hex()}\n'
    camera.pages["/live.m3u8"] = (200, {}, playlist("a.ts", head=head))
    assert [index_of(frame.image) for frame in await frames_of(camera.url("/live.m3u8"), 20)] == [
        i % 20 for i in range(20)
    ]


async def test_a_playlist_of_thousands_without_a_picture(camera: Web) -> None:
    camera.pages["/live.m3u8"] = (200, {}, playlist(*(f"{index}.ts" for index in range(5000))))
    for index in range(5000):
        camera.pages[f"/{index}.ts"] = (200, {}, bytes(188))
    assert f"no picture after {MAX_REQUESTS_TO_OPEN} requests" in await why_not(camera.url("/live.m3u8"))
    assert len(camera.asked) <= 2 * MAX_REQUESTS_TO_OPEN  # one connection, perhaps the next has begun


def digest_page(clip: bytes) -> Callable[[BaseHTTPRequestHandler], Answer]:
    def page(handler: BaseHTTPRequestHandler) -> Answer:
        given = handler.headers.get("Authorization", "")
        if 'username="ann"' in given and "response=" in given:
            return 200, {}, clip
        nonce = hashlib.sha256(b"x").hexdigest()
        return 401, {"WWW-Authenticate": f'Digest realm="cam", nonce="{nonce}", qop="auth", algorithm=MD5'}, b""

    return page


async def test_passwords(camera: Web, clip: bytes) -> None:
    wanted = "Basic " + base64.b64encode(b"ann:p@ss/w").decode()
    camera.pages["/basic"] = lambda handler: (
        (200, {}, clip) if handler.headers.get("Authorization") == wanted else (401, {}, b"")
    )
    camera.pages["/digest"] = digest_page(clip)
    for path in ("/basic", "/digest"):
        url = camera.url(path).replace("//", "//ann:p%40ss%2Fw@")
        assert len(await frames_of(url)) == 5
    said = await why_not(camera.url("/basic").replace("//", "//ann:wr0ng@"))
    assert "401" in said
    assert "wr0ng" not in said


def test_a_camera_that_falls_silent(camera: Web) -> None:
    done = threading.Event()

    def silent(handler: BaseHTTPRequestHandler) -> Answer:
        done.wait(10)
        return 200, {}, b""

    camera.pages["/live"] = silent
    opener = HttpOpener(camera.url("/live"), timeout_s=0.2)
    with pytest.raises(MediaStalled):
        opener(camera.url("/live"), 0, {})
    done.set()
    opener.close()


def test_the_time_limit_covers_all_pieces_of_a_response(camera: Web) -> None:
    now = 0.0
    camera.pages["/live"] = (200, {}, bytes(1000))
    opener = HttpOpener(camera.url("/live"), timeout_s=10.0, now=lambda: now)
    body = opener(camera.url("/live"), 0, {})
    assert body.read(10)
    now = 11.0
    with pytest.raises(MediaStalled):
        body.read(10)
    opener.begin()
    assert body.read(10)
    opener.close()


def test_the_rate_of_requests_is_limited_while_playing(camera: Web) -> None:
    slept: list[float] = []
    camera.pages["/a.ts"] = (200, {}, b"x")
    opener = HttpOpener(camera.url("/"), timeout_s=10.0, now=lambda: 0.0, sleep=slept.append)
    opener.playing()
    for _ in range(44):
        opener(camera.url("/a.ts"), 0, {}).close()
    assert slept == [0.25, 0.5, 0.75, 1.0]
    opener.close()


def test_what_counts_as_a_playlist() -> None:
    assert is_playlist("http://h/a.m3u8?x=1")
    assert is_playlist("http://h/a.M3U8")
    assert not is_playlist("http://h/a?x=.m3u8")
    assert not is_playlist("http://[::1")


async def test_a_live_playlist_that_grows(camera: Web, tmp_path: Path) -> None:
    for index in range(6):
        part = write_timed(tmp_path / f"{index}.ts", [index + i / 10 for i in range(10)])
        camera.pages[f"/{index}.ts"] = (200, {}, part.read_bytes())

    def live(handler: BaseHTTPRequestHandler) -> Answer:
        newest = min(6, 1 + camera.paths().count("/live.m3u8"))
        body = "".join(f"#EXTINF:1,\n{index}.ts\n" for index in range(newest))
        return 200, {}, f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n{body}".encode()

    camera.pages["/live.m3u8"] = live
    assert len(await frames_of(camera.url("/live.m3u8"), 35)) == 35
    assert camera.paths().count("/live.m3u8") >= 2
    assert camera.paths().count("/1.ts") <= 1


async def test_a_camera_with_an_unknown_codec(camera: Web, tmp_path: Path) -> None:
    data = write_clip(tmp_path / "clip.mp4", num=5).read_bytes().replace(b"avc1", b"zz01")
    camera.pages["/clip.mp4"] = (200, {"Accept-Ranges": "bytes"}, data)
    assert "the codec of its video is not known here; convert it" in await why_not(camera.url("/clip.mp4"))


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:99999/x", "http://[::1", "http://\ud800:\ud800@127.0.0.1:1/", "http:///x"]
)
async def test_an_unusable_address_is_reported(address: str) -> None:
    said = await why_not(address)
    assert said
    said.encode()
