"""Fetch what FFmpeg reads over HTTP: only from the camera's own host, at a limited rate, without cookies.

FFmpeg's own HTTP client follows redirects and playlists to any address that the camera names. Therefore PyAV is given
an `HttpOpener` as its `io_open`, which it calls for the stream and for the segments and keys of a playlist. The calls
block, so use a worker thread.
"""

import io
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from urllib.parse import unquote, urljoin, urlsplit

import httpx
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from streaming.errors import MediaError, MediaLost, MediaStalled, in_words, shown

MAX_REDIRECTS = 5
MAX_REQUESTS_TO_OPEN = 40  # until the first frame: a playlist, its keys and its first segments
BURST, REQUESTS_PER_S = 40.0, 4.0  # after it
_PORTS = {"http": 80, "https": 443}
_AES_BLOCK = 16
_PLAYLIST, _PLAYLIST_ENDS = b"#EXTM3U", "#EXT-X-ENDLIST"
_MAX_PLAYLIST_BYTES = 4 << 20
_PEEKED_BYTES = 16


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest segment of a live playlist. `length_s`: in seconds. `begins`: unix seconds; None if not declared."""

    length_s: float = 0.0
    begins: float | None = None


def newest_segment(playlist: str) -> Newest | None:
    """Return what an HLS playlist says about its newest segment; None if it has none, or is that of a file.

    Source: RFC 8216, EXTINF and EXT-X-PROGRAM-DATE-TIME.
    """
    newest, next_begins = None, None
    for line in playlist.splitlines():
        if found := re.match(r"#EXT-X-PROGRAM-DATE-TIME:\s*(\S+)", line):
            next_begins = _unix(found[1])
        elif found := re.match(r"#EXTINF:\s*(\d+(?:\.\d+)?)", line):
            newest = Newest(float(found[1]), next_begins)
            next_begins = None if next_begins is None else next_begins + newest.length_s
        elif line.startswith(_PLAYLIST_ENDS):
            return None
    return newest


def _unix(text: str) -> float | None:
    try:
        time_of = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if time_of.tzinfo is None else time_of.timestamp()


class Readable(Protocol):
    """A file-like object that PyAV can read."""

    def read(self, size: int) -> bytes: ...

    def close(self) -> None: ...


class HttpOpener:
    """Opens addresses for one connection to a camera. Raises MediaLost and MediaStalled, without passwords."""

    def __init__(
        self, url: str, *, timeout_s: float, other_hosts: bool = False, now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        """`other_hosts`: redirects and playlists may lead to other hosts and ports than that of `url`."""
        self._url = url
        self._origin = _origin(url)
        self._other_hosts = other_hosts
        self._timeout_s = timeout_s
        self._now, self._sleep = now, sleep
        with in_words(f"{shown(url)}: its user and password cannot be sent", MediaLost):
            user = _user(url)
            self._auth: httpx.Auth | None = httpx.BasicAuth(*user) if user else None
        self._client = httpx.Client(verify=False, timeout=timeout_s, trust_env=False)  # noqa: S501 - cameras have self-signed certificates
        self._deadline = now() + timeout_s
        self._failed = False
        self._playing_since: float | None = None
        self._limit = 0.0
        self._first: HttpFile | None = None
        self.num_requests = 0
        self.newest: Newest | None = None  # of the first live playlist

    def open(self, url: str) -> "HttpFile":
        """Return the body of `url`. The next call of this object for the same address returns it again."""
        self._first = HttpFile(self, url, 0, None)
        return self._first

    def begin(self) -> None:
        """Restart the time limit. Call it before each call of FFmpeg."""
        self._deadline = self._now() + self._timeout_s

    def playing(self) -> None:
        """Record that a frame was decoded. From now on, the rate of requests is limited instead of their number."""
        if self._playing_since is None:
            self._playing_since, self._limit = self._now(), self.num_requests + BURST

    def __call__(self, url: str, flags: int, options: Mapping[str, str]) -> Readable:
        """Return the body of `url` as a file. After a failure, every body is empty, so that a playlist ends."""
        if self._failed:
            return io.BytesIO()
        try:
            if url.startswith(("crypto+", "crypto:")):
                body = self._open(url[len("crypto+") :], options)
                return _Decrypted(body, bytes.fromhex(options["key"]), bytes.fromhex(options["iv"]))
            return self._open(url, options)
        except (MediaError, KeyError, ValueError) as error:
            self._failed = True
            if isinstance(error, MediaError):
                raise
            raise MediaLost(f"{shown(url)}: the key of an encrypted stream cannot be used") from error

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self._client.close()

    def left_s(self, url: str) -> float:
        """Return the seconds that are left of the time limit. Raises MediaStalled (naming `url`) if none are left."""
        left_s = self._deadline - self._now()
        if left_s <= 0:
            raise MediaStalled(f"{shown(url)}: no data arrived within the time limit")
        return left_s

    def _open(self, url: str, options: Mapping[str, str]) -> Readable:
        start, end = int(options.get("offset", 0)), int(options.get("end_offset", 0))
        first, self._first = self._first, None
        body = first if first is not None and first.url == url and not (start or end) else None
        body = body or HttpFile(self, url, start, end or None)
        return self._playlist(body) if body.peek().startswith(_PLAYLIST) else body

    def _playlist(self, body: "HttpFile") -> io.BytesIO:
        """Return the playlist, and note what the first one says about its newest segment, with which FFmpeg begins."""
        text = b""
        while len(text) <= _MAX_PLAYLIST_BYTES and (piece := body.read(_MAX_PLAYLIST_BYTES)):
            text += piece
        body.close()
        self.newest = self.newest or newest_segment(text.decode(errors="replace"))
        return io.BytesIO(text)

    def fetch(self, url: str, start: int, end: int | None) -> tuple[httpx.Response, str]:
        """Return the response to a GET request for the bytes [start, end), and its address after redirects."""
        for _ in range(MAX_REDIRECTS + 1):
            self._check(url)
            response = self._send(url, start, end)
            if not response.is_redirect:
                break
            response.close()
            with in_words(f"{shown(url)} redirects to an invalid address", MediaLost):
                url = urljoin(url, response.headers.get("location", ""))
        else:
            raise MediaLost(f"{shown(url)}: more than {MAX_REDIRECTS} redirects")
        if response.status_code not in (200, 206) or (start and response.status_code != 206):
            response.close()
            raise MediaLost(f"{shown(url)}: the camera answers {response.status_code} {response.reason_phrase}")
        return response, url

    def _check(self, url: str) -> None:
        if urlsplit(url).scheme.lower() not in _PORTS:
            raise MediaLost(f"{shown(self._url)} leads to {shown(url)}, which is not HTTP: not followed")
        if not self._other_hosts and not _same_site(self._origin, _origin(url)):
            raise MediaLost(
                f"{shown(self._url)} leads to another host ({shown(url)}): not followed. If that is right, set "
                "other_hosts: true for this camera"
            )
        self.num_requests += 1
        if self._playing_since is None:
            if self.num_requests > MAX_REQUESTS_TO_OPEN:
                raise MediaLost(f"{shown(self._url)}: no picture after {MAX_REQUESTS_TO_OPEN} requests")
            return
        allowed = self._limit + REQUESTS_PER_S * (self._now() - self._playing_since)
        if self.num_requests > allowed:
            self._sleep(min(self.left_s(url), (self.num_requests - allowed) / REQUESTS_PER_S))

    def _send(self, url: str, start: int, end: int | None) -> httpx.Response:
        headers = {"Accept-Encoding": "identity", "User-Agent": "ViLaMP-Live"}
        if start or end:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        mine = _same_site(self._origin, _origin(url))
        bare = urlsplit(url)._replace(netloc=urlsplit(url).netloc.rpartition("@")[2]).geturl()
        try:
            self._client.cookies.clear()  # cameras need none, and other hosts must not get them
            request = self._client.build_request("GET", bare, headers=headers, timeout=self.left_s(url))
            response = self._client.send(request, auth=self._auth if mine else None, stream=True)
            digest = "digest" in response.headers.get("www-authenticate", "").lower()
            if response.status_code == 401 and digest and mine and isinstance(self._auth, httpx.BasicAuth):
                response.close()
                self._auth = httpx.DigestAuth(*(_user(self._url) or ("", "")))
                response = self._client.send(request, auth=self._auth, stream=True)
        except httpx.TimeoutException:
            raise MediaStalled(f"{shown(url)}: no data arrived within the time limit") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ValueError, RuntimeError) as error:
            raise MediaLost(f"{shown(url)}: {error}") from None
        return response


class HttpFile:
    """The body of one address as a file, seekable where the server supports ranges."""

    def __init__(self, opener: HttpOpener, url: str, start: int, end: int | None) -> None:
        self._opener = opener
        self._start, self._end = start, end
        self.url = url  # before redirects
        self._response, self._url = opener.fetch(url, start, end)
        self.content_type: str = self._response.headers.get("content-type", "").strip().lower()
        self._size = _size(self._response)
        self._pieces: Iterator[bytes] = self._response.iter_raw()
        self._rest = b""
        self._pos = start

    @property
    def is_whole(self) -> bool:
        """Whether the server says how long the body is, as it does for files."""
        return self._size is not None and not self.content_type.startswith("multipart/")

    def peek(self) -> bytes:
        """Return the first of the next bytes without taking them, b"" at the end."""
        taken = b""
        while len(taken) < _PEEKED_BYTES and (piece := self.read(_PEEKED_BYTES)):
            taken += piece
        self._rest = taken + self._rest
        self._pos -= len(taken)
        return taken

    def seekable(self) -> bool:
        """Return whether the position can be changed: True for a file on the server, False for a live stream."""
        return self._size is not None and self._response.headers.get("accept-ranges", "").lower() == "bytes"

    def read(self, size: int) -> bytes:
        """Read and return 1 to `size` bytes, b"" at the end."""
        self._opener.left_s(self._url)
        try:
            while not self._rest:
                piece = next(self._pieces, None)
                if piece is None:
                    return b""
                self._rest = piece
        except httpx.TimeoutException:
            raise MediaStalled(f"{shown(self._url)}: no data arrived within the time limit") from None
        except (httpx.HTTPError, httpx.StreamError, RuntimeError) as error:
            raise MediaLost(f"{shown(self._url)}: {error}") from None
        taken, self._rest = self._rest[:size], self._rest[size:]
        self._pos += len(taken)
        return taken

    def tell(self) -> int:
        """Return the position of the next byte."""
        return self._pos

    def seek(self, offset: int, whence: int = 0) -> int:
        """Change the position, by a new request that begins there, and return it."""
        place = offset + (0, self._pos, self._size or 0)[whence]
        if place != self._pos:
            self._response.close()
            self._rest = b""
            if self._size is not None and place >= self._size:
                self._pieces = iter(())
            else:
                self._response, _ = self._opener.fetch(self._url, place, self._end)
                self._pieces = self._response.iter_raw()
            self._pos = place
        return place

    def close(self) -> None:
        """Close the request for this body. Idempotent."""
        self._response.close()


class _Decrypted:
    """The decrypted body of a playlist's segment (AES-128 in CBC mode), without its padding, as a file."""

    def __init__(self, body: Readable, key: bytes, iv: bytes) -> None:
        self._body = body
        self._decryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
        self._waiting = b""  # includes the last block, which may end in padding
        self._ended = False

    def read(self, size: int) -> bytes:
        while not self._ended and len(self._waiting) <= _AES_BLOCK:
            piece = self._body.read(size)
            self._ended = not piece
            self._waiting += self._decryptor.update(piece)
        if self._ended:
            taken = self._waiting[:size] if len(self._waiting) > _AES_BLOCK else self._unpadded()
        else:
            taken = self._waiting[: min(size, len(self._waiting) - _AES_BLOCK)]
        self._waiting = self._waiting[len(taken) :] if not self._ended or taken else b""
        return taken

    def _unpadded(self) -> bytes:
        last = self._waiting[-1] if self._waiting else 0
        self._waiting = self._waiting[:-last] if 1 <= last <= _AES_BLOCK else self._waiting
        return self._waiting

    def close(self) -> None:
        self._body.close()


def is_playlist(url: str) -> bool:
    """Return whether the address itself is that of an HLS playlist, by its path."""
    try:
        return urlsplit(url).path.lower().endswith((".m3u8", ".m3u"))
    except ValueError:
        return False


def _origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an address. Raises MediaLost if it is invalid."""
    try:
        parts = urlsplit(url)
        scheme, host = parts.scheme.lower(), (parts.hostname or "").rstrip(".").lower()
        port = parts.port or _PORTS.get(scheme, 0)
    except ValueError as error:
        raise MediaLost(f"{shown(url)}: {error}") from None
    return scheme, host, port


def _same_site(camera: tuple[str, str, int], other: tuple[str, str, int]) -> bool:
    """Return whether both addresses, as (scheme, host, port), belong to the same server.

    They do if host and port are equal, or if only HTTP at its default port became HTTPS at its default port.
    """
    upgraded = (camera[0], camera[2], other[0], other[2]) == ("http", 80, "https", 443)
    return camera[1] == other[1] and (camera == other or upgraded)


def _user(url: str) -> tuple[str, str] | None:
    parts = urlsplit(url)
    return (unquote(parts.username or ""), unquote(parts.password or "")) if parts.username or parts.password else None


def _size(response: httpx.Response) -> int | None:
    """Return the size of the whole file in bytes, None if the server does not say."""
    if response.status_code == 206:
        size = response.headers.get("content-range", "").rpartition("/")[2]
    else:
        size = response.headers.get("content-length", "")
    return int(size) if size.isascii() and size.isdigit() else None
