"""WHIP clients that nobody here wrote, and peers that do on the wire what such a client does."""

import asyncio
import datetime
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aioice.ice
import av
import pytest
from aiortc import RTCCertificate, RTCPeerConnection
from aiortc.rtcdtlstransport import SRTP_PROFILES
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from OpenSSL import SSL

from streaming.frame import FrameSettings
from streaming.publisher import publish
from tests.support import chromium_whip
from tests.support.browser import needs_chromium
from tests.support.streams import TOKEN, take, track, whip_site
from tests.support.timed_pictures import age_s, draw_i420, now_ms, read
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
SYSTEM_PYTHON = "/usr/bin/python3"
_CHECK_GSTREAMER = """
import gi
gi.require_version("Gst", "1.0"); gi.require_version("GstWebRTC", "1.0")
from gi.repository import Gst, GstWebRTC
Gst.init(None)
missing = [name for name in ("webrtcbin", "nicesrc", "vp8enc", "x264enc") if not Gst.ElementFactory.find(name)]
raise SystemExit(" ".join(missing) or 0)
"""


def has_gstreamer() -> bool:
    if shutil.which(SYSTEM_PYTHON) is None:
        return False
    with suppress(subprocess.TimeoutExpired):
        return subprocess.run([SYSTEM_PYTHON, "-c", _CHECK_GSTREAMER], capture_output=True, timeout=60).returncode == 0
    return False


@asynccontextmanager
async def gstreamer(url: str, codec: str, width: int, height: int, rate_hz: int) -> AsyncIterator[None]:
    """Publish timed pictures with GStreamer during the block."""
    process = await asyncio.create_subprocess_exec(
        SYSTEM_PYTHON, "tests/support/gstreamer_whip.py", url, TOKEN, codec, str(width), str(height), str(rate_hz),
        cwd=ROOT, stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin is not None

    async def feed() -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        with suppress(ConnectionError):
            while True:
                process.stdin.write(draw_i420(now_ms(), width, height))
                await process.stdin.drain()
                due += 1 / rate_hz
                await asyncio.sleep(max(0.0, due - loop.time()))

    feeding = asyncio.create_task(feed())
    try:
        yield
    finally:
        feeding.cancel()
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("codec", ["VP8", "H264"])
async def test_gstreamer_publishes(codec: str) -> None:
    """Its certificate has an RSA key, and its sender reports run at twice the clock rate."""
    if not has_gstreamer():
        pytest.skip(
            "no webrtcbin here: apt-get install gstreamer1.0-nice gstreamer1.0-plugins-{good,bad,ugly} and more"
        )
    async with whip_site(frames=FrameSettings(rate_hz=1.0)) as site, gstreamer(site.url(), codec, 320, 192, 15):
        await until(lambda: bool(site.sources))
        frames = await take(site.sources[0].frames(), 10)
        assert site.sources[0].stats.codec == codec.lower()
    assert len(frames) == 10
    for frame in frames[2:]:  # the first pictures waited for the connection
        drawn, wrong = read(frame.image)
        assert drawn is not None
        assert not wrong
        assert -0.1 < age_s(drawn, frame.time) < 1.5
    assert frames[-1].time - frames[0].time < 10.5


@needs_chromium
@pytest.mark.parametrize(
    ("layers", "width"), [(["q", "h", "f"], 640), (["1", "2", "3"], 320)], ids=["named", "not-named"]
)
async def test_the_largest_layer_of_a_simulcast_is_kept(layers: list[str], width: int) -> None:
    """Of three layers of 640x360 Chromium sends the smallest two, unless it is told that the largest alone is wanted."""
    async with (
        whip_site(frames=FrameSettings(rate_hz=5.0)) as site,
        chromium_whip.publishing(site.url(), TOKEN, "VP8", 640, 360, 15, layers),
    ):
        frames = await take(site.sources[0].frames(), 25)
    assert {frame.image.shape[1] for frame in frames[10:]} == {width}
    assert not any(read(frame.image)[1] for frame in frames[10:])


async def test_a_publisher_with_an_rsa_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    """As GStreamer's: as the server of the handshake it can use ECDHE-RSA cipher suites only."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "publisher")])
    today = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(today - datetime.timedelta(days=1)).not_valid_after(today + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )  # fmt: skip

    class RsaCertificate(RTCCertificate):
        def _create_ssl_context(self, srtp_profiles: list) -> SSL.Context:
            context = super()._create_ssl_context(srtp_profiles)
            context.set_cipher_list(b"ECDHE-RSA-AES128-GCM-SHA256")
            return context

    create = RTCPeerConnection.createOffer

    async def create_with_rsa(self: RTCPeerConnection) -> object:
        offers = RsaCertificate(key, certificate)
        self._RTCPeerConnection__certificates = [offers]
        for transceiver in self.getTransceivers():
            transceiver.receiver.transport._RTCDtlsTransport__local_certificate = offers
        return await create(self)

    monkeypatch.setattr(RTCPeerConnection, "createOffer", create_with_rsa)
    assert SRTP_PROFILES
    async with whip_site() as site, publish(site.url(), TOKEN, track(), client=site.client) as publication:
        await publication.wait_connected()
        assert await take(site.sources[0].frames(), 3)


async def ffmpeg(url: str, seconds: float) -> asyncio.subprocess.Process:
    if "whip" not in av.formats_available:
        pytest.skip("this FFmpeg has no WHIP muxer")
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.ffmpeg_whip", url, TOKEN, str(seconds),
        cwd=ROOT, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def test_ffmpeg_publishes() -> None:
    async with whip_site() as site:
        process = await ffmpeg(site.url(), 4)
        ended = asyncio.create_task(process.communicate())
        await until(lambda: bool(site.sources) or ended.done())
        assert site.sources, (await ended)[1].decode()
        frames = await take(site.sources[0].frames(), 5)
        _, told = await ended
        assert process.returncode == 0, told.decode()
        assert len(frames) == 5
        assert frames[0].image.shape == (120, 160, 3)
        assert site.server.counters.closed == {"deleted": 1}


@pytest.fixture
def quick_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Consent that expires after about 1.5 s instead of 30 s."""
    monkeypatch.setattr(aioice.ice, "CONSENT_INTERVAL", 0.2)
    monkeypatch.setattr(aioice.stun, "RETRY_RTO", 0.05)


async def test_ffmpeg_answers_no_stun_and_is_not_cut_off(quick_consent: None) -> None:
    async with whip_site() as site:
        process = await ffmpeg(site.url(), 7)
        _, told = await process.communicate()
        assert process.returncode == 0, told.decode()
        assert site.server.counters.closed == {"deleted": 1}
        assert site.sources[0].stats.received >= 6 * 15


async def test_consent_expires_if_no_media_comes_either(quick_consent: None) -> None:
    async with whip_site(frames=FrameSettings(stall_timeout_s=60.0)) as site:
        process = await ffmpeg(site.url(), 60)
        await until(lambda: bool(site.sources) and site.sources[0].stats.received > 5)
        process.kill()
        await process.communicate()
        await until(lambda: site.server.num_sessions == 0, 20)
        assert site.server.counters.closed == {"consent_expired": 1}
