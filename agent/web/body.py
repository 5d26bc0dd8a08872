"""Reads request bodies, with limits on size, time, content type and compression."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent.errors import BadRequest, TooLarge, TooSlow, UnsupportedMedia

BODY_TIMEOUT_S = 20.0
MAX_PACKED_BYTES = 2 << 20  # largest compressed body, before it is decompressed
_PART_BYTES = 64 << 10
_GZIP, _DEFLATE = ("gzip", "x-gzip"), "deflate"
_GZIP_BITS, _ZLIB_BITS, _RAW_BITS = 31, 15, -15  # zlib's `wbits` for the three formats
# Content types accepted as JSON. `curl -d` sends the second one unless the user sets the header.
_JSON_TYPES = ("application/json", "application/x-www-form-urlencoded", "application/octet-stream")
_ACCEPTED = {"Accept-Encoding": "gzip, deflate"}


async def read_body(request: Request, limit_bytes: int, timeout_s: float = BODY_TIMEOUT_S) -> bytes:
    """Return the body of a request that sends JSON.

    Raises UnsupportedMedia for another content type, TooLarge as soon as more than `limit_bytes` are announced or
    received, TooSlow after `timeout_s`, and BadRequest when the connection ends early.
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
        raise BadRequest("The connection ended before the whole request had arrived.") from None
    except TimeoutError:
        raise TooSlow(timeout_s) from None
    return bytes(body)


def check_content_type(headers: Headers) -> None:
    """Raise UnsupportedMedia for a Content-Type that cannot be JSON in UTF-8. A request without one is accepted."""
    types = headers.getlist("content-type")
    if not types:
        return
    kind, *parameters = (part.strip().lower() for part in types[0].split(";"))
    charsets = [part.removeprefix("charset=").strip('"') for part in parameters if part.startswith("charset=")]
    if len(set(types)) > 1:
        raise UnsupportedMedia("The request has two Content-Types: send application/json.")
    if kind not in _JSON_TYPES and not kind.endswith(("+json", "/json")) and not kind.startswith("text/"):
        raise UnsupportedMedia("Send the body as Content-Type: application/json.")
    if any(charset not in ("utf-8", "utf8", "us-ascii") for charset in charsets):
        raise UnsupportedMedia("Send the body as UTF-8.")


class Unpacking:
    """Middleware that decompresses request bodies with `Content-Encoding: gzip` or `deflate`.

    At most _PART_BYTES are decompressed at a time, so that a small body that expands to a huge one is stopped at the
    size limit of `read_body`. Reading a body that cannot be decompressed raises UnsupportedMedia, TooLarge or
    BadRequest.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        listed = ",".join(Headers(scope=scope).getlist("content-encoding")) if scope["type"] == "http" else ""
        codings = [coding for each in listed.lower().split(",") if (coding := each.strip()) not in ("", "identity")]
        if codings:
            scope = {**scope, "headers": list(scope["headers"])}
            headers = MutableHeaders(scope=scope)
            del headers["content-encoding"]
            del headers["content-length"]
            receive = _Unpacked(receive, codings).receive
        await self._app(scope, receive, send)


class _Unpacked:
    """Decompresses the body of one request while it is received."""

    def __init__(self, receive: Receive, codings: list[str]) -> None:
        self._receive = receive
        self._codings = codings
        self._parts = self._unpacked()
        self._gone: Message | None = None  # the disconnect message, if the client disconnected early
        self._ended = False

    async def receive(self) -> Message:
        """Return the next ASGI message for the application, with a decompressed part of the body."""
        part = None if self._ended else await anext(self._parts, None)
        if part is not None:
            return {"type": "http.request", "body": part, "more_body": True}
        if self._gone is None and not self._ended:
            self._ended = True
            return {"type": "http.request", "body": b"", "more_body": False}
        return self._gone or await self._receive()

    async def _unpacked(self) -> AsyncIterator[bytes]:
        if len(self._codings) > 1 or self._codings[0] not in (*_GZIP, _DEFLATE):
            raise UnsupportedMedia("Send the body plain, or compressed once with gzip or deflate.", headers=_ACCEPTED)
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
            raise BadRequest("The compressed body ends early.")

    def _decoder(self, packed: bytes, before: "zlib._Decompress | None") -> "zlib._Decompress":
        """Return a decoder for compressed data that begins with `packed`. Raises BadRequest.

        before: the decoder of the previous compressed stream in the same body, if there was one; only gzip allows
        several.
        """
        if self._codings[0] in _GZIP:
            return zlib.decompressobj(_GZIP_BITS)
        if before is not None:
            raise BadRequest("The compressed body has more data after its end.")
        # "deflate" means the zlib format (RFC 9110), but some clients send raw deflate data
        is_zlib = packed[0] & 15 == 8 and (len(packed) < 2 or int.from_bytes(packed[:2]) % 31 == 0)
        return zlib.decompressobj(_ZLIB_BITS if is_zlib else _RAW_BITS)


def _parts(decoder: "zlib._Decompress", packed: bytes) -> Iterator[bytes]:
    """Yield `packed` decompressed, in parts of at most _PART_BYTES, up to the end of the compressed stream."""
    try:
        while not decoder.eof:
            part = decoder.decompress(packed, _PART_BYTES)
            packed = decoder.unconsumed_tail
            if part:
                yield part
            if not packed and len(part) < _PART_BYTES:
                return
    except zlib.error:
        raise BadRequest("The compressed body is damaged, or is not what Content-Encoding says.") from None


def _too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(f"The request is larger than {limit_bytes} bytes.", headers={"Connection": "close"})
