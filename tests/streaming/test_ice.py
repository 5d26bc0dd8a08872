"""How sessions are reached: candidates that are always gathered, fixed ports, public addresses, STUN and TURN."""

import asyncio
import re
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace

import ifaddr
import pytest
from aiortc import RTCSessionDescription

from streaming.ice import Ice, IceSettings
from streaming.publisher import publish
from streaming.sdp import IceServer
from streaming.whip import WhipSettings
from tests.support.network import free_port
from tests.support.streams import OFFER, TOKEN, Site, take, track, whip_site
from tests.support.waiting import until

SDP = {"Content-Type": "application/sdp"}
FRAGMENT = {"Content-Type": "application/trickle-ice-sdpfrag"}
UNKNOWN = "a=candidate:{0} 1 udp 2122260223 0a1b2c3d-1111-2222-3333-{0:012d}.local 50000 typ host\r\n"
TURN_USER = ("ann", "s3cret")
needs_coturn = pytest.mark.skipif(shutil.which("turnserver") is None, reason="no coturn: apt-get install coturn")


def candidates(sdp: str) -> list[tuple[str, int, str]]:
    """Return (address, port, type) of each candidate."""
    found = re.findall(r"a=candidate:\S+ 1 udp \d+ (\S+) (\d+) typ (\w+)", sdp)
    return [(address, int(port), kind) for address, port, kind in found]


async def answer_to(site: Site, offer: str = OFFER, camera: str = "door") -> str:
    response = await site.client.post(site.url(camera), content=offer, headers=SDP)
    assert response.status_code == 201, response.text
    return response.text


async def test_a_publisher_that_hides_its_addresses_connects() -> None:
    """Firefox sends an mDNS name that may not resolve, and then `a=end-of-candidates`."""
    ice = Ice()
    peer = ice.connection()
    async with whip_site() as site:
        peer.addTransceiver(track(), direction="sendonly")
        ice.prepare(peer)
        await peer.setLocalDescription(await peer.createOffer())
        bare = re.sub(r"a=candidate:.*\r\n", "", peer.localDescription.sdp)
        offer = bare.replace("a=end-of-candidates\r\n", UNKNOWN.format(1) + "a=end-of-candidates\r\n")
        assert (bare.count("a=end-of-candidates"), offer.count(".local")) == (1, 1)
        started = time.monotonic()
        answer = await answer_to(site, offer)
        assert time.monotonic() - started < 0.9  # one second is what the name takes
        assert candidates(answer)
        await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        assert await take(site.sources[0].frames(), 2)
        await peer.close()


async def test_unknown_names_do_not_delay_the_answer_to_a_fragment() -> None:
    async with whip_site() as site:
        location = (await site.client.post(site.url(), content=OFFER, headers=SDP)).headers["location"]
        names = "".join(UNKNOWN.format(number) for number in range(15))
        started = time.monotonic()
        response = await site.client.patch(site.base + location, content=names, headers=FRAGMENT)
        assert response.status_code == 204
        assert time.monotonic() - started < 0.9
        (session,) = site.sources
        await until(lambda: not session._adding)  # type: ignore[attr-defined]
        assert time.monotonic() - started < 4.0  # all names at the same time


async def test_loopback_is_offered_where_no_address_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a new aioice looks up its addresses elsewhere."""
    gone = SimpleNamespace(
        ips=[SimpleNamespace(ip="198.51.100.7", nice_name="eth0")]
    )  # as of an interface that is down
    for adapters in ([], [gone]):
        monkeypatch.setattr(ifaddr, "get_adapters", lambda adapters=adapters: adapters)
        async with whip_site() as site, publish(site.url(), TOKEN, track(), client=site.client) as publication:
            assert {address for address, _, _ in candidates(await answer_to(site, camera="b"))} >= {"127.0.0.1"}
            await publication.wait_connected()


async def test_all_sessions_share_a_single_port() -> None:
    port = free_port()
    ice = IceSettings(udp_ports=(port, port), public_addresses=("203.0.113.9",))
    async with whip_site(WhipSettings(ice=ice)) as site, AsyncExitStack() as publishers:
        offered = candidates(await answer_to(site))
        assert {number for _, number, _ in offered} == {port}
        assert ("203.0.113.9", port, "host") in offered
        for camera in ("a", "b", "c"):
            await publishers.enter_async_context(publish(site.url(camera), TOKEN, track(), client=site.client))
        for source in site.sources[1:]:
            assert len(await take(source.frames(), 3)) == 3
        await site.sources[1].close()
        received = [source.stats.received for source in site.sources[2:]]
        await until(lambda: all(s.stats.received > n + 3 for s, n in zip(site.sources[2:], received, strict=True)))


async def test_each_session_takes_a_port_of_a_range_until_none_is_free() -> None:
    port = free_port()
    async with whip_site(WhipSettings(ice=IceSettings(udp_ports=(port, port + 1)))) as site:
        first, second = [dict(each[:2] for each in candidates(await answer_to(site, camera=name))) for name in "ab"]
        assert first.keys() == second.keys()
        assert all({first[address], second[address]} == {port, port + 1} for address in first)
        refused = await site.client.post(site.url("c"), content=OFFER, headers=SDP)
        assert refused.status_code == 503
        assert f"streaming.udp_ports ({port}-{port + 1})" in refused.json()["detail"]
        assert site.server.num_sessions == 2


async def test_packets_that_do_not_know_the_password_reach_no_session() -> None:
    port = free_port()
    loop = asyncio.get_running_loop()
    async with whip_site(WhipSettings(ice=IceSettings(udp_ports=(port, port)))) as site:
        answer = await answer_to(site)
        (address, *_) = next(each for each in candidates(answer) if ":" not in each[0])
        name = re.search(r"a=ice-ufrag:(\S+)", answer)[1].encode()  # type: ignore[index]
        padded = name + b":abcd" + b"\0" * (-(len(name) + 5) % 4)
        attribute = b"\0\6" + (len(name) + 5).to_bytes(2) + padded
        request = b"\0\1" + len(attribute).to_bytes(2) + bytes.fromhex("2112a442") + b"0" * 12 + attribute
        transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=(address, 0))
        for data in (request, b"\x80" + b"x" * 40, b"", b"\0"):
            transport.sendto(data, (address, port))
        await asyncio.sleep(0.2)
        (shared,) = [each for here, each in site.server.ice._shared.items() if here == address]
        assert shared._by_address == {}
        transport.close()


@asynccontextmanager
async def coturn() -> AsyncIterator[int]:
    """Run coturn on loopback and yield its port."""
    port = free_port()
    arguments = ["-n", "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", f"--listening-port={port}", "--no-tls",
                 "--no-dtls", "--lt-cred-mech", f"--user={':'.join(TURN_USER)}", "--realm=test", "--no-cli",
                 "--allow-loopback-peers", "--pidfile=/dev/null", "--log-file=stdout"]  # fmt: skip
    pipe = asyncio.subprocess.PIPE
    server = await asyncio.create_subprocess_exec("turnserver", *arguments, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(10):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    break
        yield port
    finally:
        server.kill()
        await server.communicate()


@needs_coturn
@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_session_through_a_turn_server(monkeypatch: pytest.MonkeyPatch, transport: str) -> None:
    """The agent's own addresses are left out of the answer, so that only the relayed one connects."""
    monkeypatch.setattr(ifaddr, "get_adapters", list)
    async with coturn() as port:
        servers = (
            IceServer(f"stun:127.0.0.1:{port}"),
            IceServer(f"turn:127.0.0.1:{port}?transport={transport}", *TURN_USER),
        )
        async with whip_site(WhipSettings(ice=IceSettings(servers=servers))) as site:
            ice = Ice()
            peer = ice.connection()
            peer.addTransceiver(track(), direction="sendonly")
            ice.prepare(peer)
            await peer.setLocalDescription(await peer.createOffer())
            answer = await answer_to(site, peer.localDescription.sdp)
            assert {kind for *_, kind in candidates(answer)} == {"host", "srflx", "relay"}
            relayed = "".join(
                line for line in answer.splitlines(True) if not line.startswith("a=candidate:") or " relay " in line
            )
            (transceiver,) = site.sources[0]._peer.getTransceivers()  # type: ignore[attr-defined]
            connection = transceiver.receiver.transport.transport._connection
            for protocol in [each for each in connection._protocols if each.local_candidate.type == "host"]:
                connection._protocols.remove(protocol)
                await protocol.close()
            await peer.setRemoteDescription(RTCSessionDescription(relayed, "answer"))
            assert await take(site.sources[0].frames(), 2)
            await peer.close()


async def test_a_turn_server_that_does_not_answer_is_named(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    servers = (IceServer(f"stun:127.0.0.1:{port}"), IceServer(f"turn:127.0.0.1:{port}", *TURN_USER))
    async with whip_site(WhipSettings(ice=IceSettings(servers=servers))) as site:
        started = time.monotonic()
        assert {kind for *_, kind in candidates(await answer_to(site))} == {"host"}
        assert time.monotonic() - started < 5.0
    assert f"the TURN server 127.0.0.1:{port} gives no address" in caplog.text
    assert f"the STUN server 127.0.0.1:{port} gives no address: no answer" in caplog.text
