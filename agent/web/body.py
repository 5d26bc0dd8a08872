"""Reading a request's body without trusting its size, its speed, its type or its packing."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent.errors import BadRequest, TooLarge, TooSlow, UnsupportedMedia

BODY_TIMEOUT_S = 20.0
MAX_PACKED_BYTES = 2 << 20  # of a packed body, whatever it unpacks to
_PART_BYTES = 64 << 10
_GZIP, _DEFLATE = ("gzip", "x-gzip"), "deflate"
_GZIP_BITS, _ZLIB_BITS, _RAW_BITS = 31, 15, -15  # zlib's names for what is around the packed bytes
# `curl -d` says the second of these unless it is told better.
_JSON_TYPES = ("application/json", "application/x-www-form-urlencoded", "application/octet-stream")
_ACCEPTED = {"Accept-Encoding": "gzip, deflate"}


async def read_body(request: Request, limit_bytes: int, timeout_s: float = BODY_TIMEOUT_S) -> bytes:
    """The body of a request that sends JSON.

    Raises UnsupportedMedia, TooLarge as soon as it is known to exceed `limit_bytes`, TooSlow, BadRequest.
    """
    check_content_type(request.headers)
    declared = request.headers.get("content-length", "0")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > limit_bytes:
        raise _too_large(limit_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for part in request.stream():
                body += part
                if len(body) > limit_bytes:
                    raise _too_large(limit_bytes)
    except ClientDisconnect:
        raise BadRequest("The connection ended before the whole request had come.") from None
    except TimeoutError:
        raise TooSlow(timeout_s) from None
    return bytes(body)


def check_content_type(headers: Headers) -> None:
    """Raises UnsupportedMedia unless the body is said to be JSON, or nothing is said of it."""
    told = headers.getlist("content-type")
    if not told:
        return
    kind, *parameters = (part.strip().lower() for part in told[0].split(";"))
    charsets = [part.removeprefix("charset=").strip('"') for part in parameters if part.startswith("charset=")]
    if len(set(told)) > 1:
        raise UnsupportedMedia("The request has two Content-Types: send application/json.")
    if kind not in _JSON_TYPES and not kind.endswith(("+json", "/json")) and not kind.startswith("text/"):
        raise UnsupportedMedia("Send the body as Content-Type: application/json.")
    if any(charset not in ("utf-8", "utf8", "us-ascii") for charset in charsets):
        raise UnsupportedMedia("Send the body as UTF-8.")


class Unpacking:
    """Unpacks request bodies with `Content-Encoding: gzip` or `deflate` for the application behind it.

    At most _PART_BYTES are unpacked at a time, so that who reads decides how much. What is wrong with a packed body is
    raised to who reads it: UnsupportedMedia, TooLarge, BadRequest.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        told = ",".join(Headers(scope=scope).getlist("content-encoding")) if scope["type"] == "http" else ""
        codings = [coding for each in told.lower().split(",") if (coding := each.strip()) not in ("", "identity")]
        if codings:
            scope = {**scope, "headers": list(scope["headers"])}
            headers = MutableHeaders(scope=scope)
            del headers["content-encoding"]
            del headers["content-length"]
            receive = _Unpacked(receive, codings).receive
        await self._app(scope, receive, send)


class _Unpacked:
    """One packed body."""

    def __init__(self, receive: Receive, codings: list[str]) -> None:
        self._receive = receive
        self._codings = codings
        self._parts = self._unpacked()
        self._gone: Message | None = None  # the client left before all had come
        self._ended = False

    async def receive(self) -> Message:
        """As the server's `receive`, with the next part of the body unpacked."""
        part = None if self._ended else await anext(self._parts, None)
        if part is not None:
            return {"type": "http.request", "body": part, "more_body": True}
        if self._gone is None and not self._ended:
            self._ended = True
            return {"type": "http.request", "body": b"", "more_body": False}
        return self._gone or await self._receive()

    async def _unpacked(self) -> AsyncIterator[bytes]:
        if len(self._codings) > 1 or self._codings[0] not in (*_GZIP, _DEFLATE):
            raise UnsupportedMedia("Send the body plain, or packed once with gzip or deflate.", headers=_ACCEPTED)
        decoder: zlib._Decompress | None = None
        num_packed, more = 0, True
        while more:
            message = await self._receive()
            if message["type"] != "http.request":
                self._gone = message
                return
            packed, more = message.get("body", b""), message.get("more_body", False)
            num_packed += len(packed)
            if num_packed > MAX_PACKED_BYTES:
                raise _too_large(MAX_PACKED_BYTES)
            while packed:
                if decoder is None or decoder.eof:
                    decoder = self._decoder(packed, decoder)
                for part in _parts(decoder, packed):
                    yield part
                packed = decoder.unused_data
        if decoder is None or not decoder.eof:
            raise BadRequest("The packed body ends early.")

    def _decoder(self, packed: bytes, before: "zlib._Decompress | None") -> "zlib._Decompress":
        """For what begins with `packed`: the body, or in gzip one more file behind the one `before`."""
        if self._codings[0] in _GZIP:
            return zlib.decompressobj(_GZIP_BITS)
        if before is not None:
            raise BadRequest("The packed body has more behind its end.")
        # deflate is meant to be zlib's format; some clients send it bare
        is_zlib = packed[0] & 15 == 8 and (len(packed) < 2 or int.from_bytes(packed[:2]) % 31 == 0)
        return zlib.decompressobj(_ZLIB_BITS if is_zlib else _RAW_BITS)


def _parts(decoder: "zlib._Decompress", packed: bytes) -> Iterator[bytes]:
    """What `packed` unpacks to, at most _PART_BYTES at a time, as far as this decoder's end."""
    try:
        while not decoder.eof:
            part = decoder.decompress(packed, _PART_BYTES)
            packed = decoder.unconsumed_tail
            if part:
                yield part
            if not packed and len(part) < _PART_BYTES:
                return
    except zlib.error:
        raise BadRequest("The packed body is damaged, or is not what Content-Encoding says.") from None


def _too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(f"The request is larger than {limit_bytes} bytes.", headers={"Connection": "close"})
