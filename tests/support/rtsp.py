"""A small RTSP server (RFC 2326, interleaved TCP, or UDP only): H.264 video, sender reports, and failures on request.

Each connection gets `frames_per_connection` frames; then the server closes it or stops sending. The pictures are those of
tests/support/streams.py, or given.
"""

import asyncio
import base64
import fractions
import re
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import av
import numpy as np
from aiortc.codecs.h264 import H264Encoder

from tests.support.streams import picture

NTP_EPOCH_S = 2_208_988_800


@dataclass
class RtspServer:
    port: int = 0
    rate_hz: float = 20.0
    pictures: Callable[[int], np.ndarray] = picture  # by number, uint8 (H, W, 3)
    frames_per_connection: int = 10_000
    then_silent: bool = False  # keep the connection open after the last frame
    sender_offset_s: float | None = 0.0  # error of the camera's clock; None: no sender reports
    password: str | None = None  # demands Basic authentication as user "ann"
    udp_only: bool = False  # refuses TCP with 461 Unsupported Transport
    num_connections: int = 0
    num_sent: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    tasks: list["asyncio.Task[None] | None"] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)  # the transport of each SETUP
    _udp: dict[asyncio.StreamWriter, tuple[socket.socket, int]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        credentials = f"ann:{self.password}@" if self.password else ""
        return f"rtsp://{credentials}127.0.0.1:{self.port}/live"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        self.tasks.append(asyncio.current_task())
        try:
            await self._converse(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            if writer in self._udp:
                self._udp.pop(writer)[0].close()
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method = head.split(" ", 1)[0]
            cseq = next(line.split(":")[1].strip() for line in head.splitlines() if line.lower().startswith("cseq"))
            body, status, extra = "", "200 OK", ""
            if self.password and method == "DESCRIBE":
                wanted = base64.b64encode(f"ann:{self.password}".encode()).decode()
                if wanted not in head:
                    status, extra = "401 Unauthorized", 'WWW-Authenticate: Basic realm="x"\r\n'
            if method == "SETUP":
                self.asked.append("udp" if "client_port" in head else "tcp")
                if self.udp_only and self.asked[-1] == "tcp":
                    status = "461 Unsupported Transport"
            if status.startswith("200"):
                extra, body = self._answer(method)
                if method == "SETUP" and (ports := re.search(r"client_port=(\d+)-(\d+)", head)):
                    self._udp[writer] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), int(ports[1])
                    extra = f"Transport: RTP/AVP/UDP;unicast;client_port={ports[1]}-{ports[2]}\r\nSession: 1\r\n"
            length = f"Content-Length: {len(body)}\r\n" if body else ""
            writer.write(f"RTSP/1.0 {status}\r\nCSeq: {cseq}\r\n{extra}{length}\r\n{body}".encode())
            await writer.drain()
            if method == "PLAY":
                await self._send(writer)
                if self.then_silent:
                    await reader.read()
                return

    def _answer(self, method: str) -> tuple[str, str]:
        if method == "OPTIONS":
            return "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n", ""
        if method == "DESCRIBE":
            sdp = (
                "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
                "a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:track0\r\n"
            )
            return "Content-Type: application/sdp\r\n", sdp
        if method == "SETUP":
            return "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n", ""
        return "Session: 1\r\n", ""

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        encoder = H264Encoder()
        sequence = 0
        started = time.monotonic()
        for index in range(self.frames_per_connection):
            frame = av.VideoFrame.from_ndarray(self.pictures(self.num_sent), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = int(index * 90_000 / self.rate_hz), fractions.Fraction(1, 90_000)
            payloads, ticks = encoder.encode(frame, force_keyframe=index % 10 == 0)
            if self.sender_offset_s is not None and index % 5 == 0:
                self._interleave(writer, 1, self._sender_report(ticks))
            for i, payload in enumerate(payloads):
                marker = 0x80 if i == len(payloads) - 1 else 0
                header = struct.pack("!BBHII", 0x80, marker | 96, sequence % 65536, ticks, 7)
                self._interleave(writer, 0, header + payload)
                sequence += 1
            await writer.drain()
            self.num_sent += 1
            await asyncio.sleep(max(0.0, started + (index + 1) / self.rate_hz - time.monotonic()))

    def _sender_report(self, ticks: int) -> bytes:
        assert self.sender_offset_s is not None
        now = time.time() + self.sender_offset_s + NTP_EPOCH_S
        return struct.pack("!BBHIIIIII", 0x80, 200, 6, 7, int(now), int(now % 1 * 2**32), ticks, 1, 1)

    def _interleave(self, writer: asyncio.StreamWriter, channel: int, data: bytes) -> None:
        if writer in self._udp:
            udp, port = self._udp[writer]
            udp.sendto(data, ("127.0.0.1", port + channel))
            return
        writer.write(b"$" + struct.pack("!BH", channel, len(data)) + data)


@asynccontextmanager
async def rtsp_server(**settings: object) -> AsyncIterator[RtspServer]:
    rtsp = RtspServer(**settings)  # type: ignore[arg-type]
    listening = await asyncio.start_server(rtsp.handle, "127.0.0.1", rtsp.port)
    rtsp.port = listening.sockets[0].getsockname()[1]
    try:
        yield rtsp
    finally:
        listening.close()
        for writer in rtsp.writers:
            writer.close()
        open_tasks = [task for task in rtsp.tasks if task is not None and not task.done()]
        for task in open_tasks:
            task.cancel()
        await asyncio.gather(*open_tasks, return_exceptions=True)
