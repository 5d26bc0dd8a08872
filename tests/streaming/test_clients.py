"""WHIP clients that nobody here wrote, and peers that do on the wire what such a client does."""

import asyncio
import datetime
import sys
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
from tests.support import chromium_whip, whip_clients
from tests.support.browser import needs_chromium
from tests.support.network import has_only_loopback
from tests.support.streams import TOKEN, take, track, whip_site
from tests.support.timed_pictures import age_s, read
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]


def needs(client: str) -> None:
    missing = whip_clients.missing(client)
    if missing:
        pytest.skip(f"no {client} here: {missing}")


@pytest.mark.parametrize("codec", ["VP8", "H264"])
@pytest.mark.parametrize("client", ["werift", "libdatachannel"])
async def test_packages_for_node_publish(client: str, codec: str) -> None:
    needs(client)
    publishing = getattr(whip_clients, client)
    async with (
        whip_site(frames=FrameSettings(rate_hz=1.0)) as site,
        publishing(site.url(), TOKEN, codec, 320, 192, 15),
    ):
        await until(lambda: bool(site.sources))
        frames = await take(site.sources[0].frames(), 12)
    assert len(frames) == 12
    drawn = [read(frame.image) for frame in frames[3:]]
    assert not any(wrong for _, wrong in drawn)
    assert all(-0.1 < age_s(ms or 0, frame.time) < 1.5 for (ms, _), frame in zip(drawn, frames[3:], strict=True))


@pytest.mark.parametrize("codec", ["VP8", "H264"])
async def test_gstreamer_publishes(codec: str) -> None:
    """Its certificate has an RSA key, and its sender reports run at twice the clock rate."""
    needs("gstreamer")
    if has_only_loopback():
        pytest.skip("GStreamer gathers no loopback addresses: needs another network interface")
    async with (
        whip_site(frames=FrameSettings(rate_hz=1.0)) as site,
        whip_clients.gstreamer(site.url(), TOKEN, codec, 320, 192, 15),
    ):
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
