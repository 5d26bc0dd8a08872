"""Every row of the WHIP table, against the real routes served by uvicorn, and real peers where media matters."""

import asyncio
import re
from contextlib import suppress

import httpx
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.frame import FrameSettings, Source
from streaming.publisher import publish
from streaming.sdp import (
    IceServer,
    OfferMalformed,
    OfferUnusable,
    check_offer,
    parse_fragment,
    usable_candidate,
    with_bitrates,
)
from streaming.whip import WhipServer, WhipSettings
from tests.support.streams import AUDIO, OFFER, TOKEN, Site, authorize, chunks, take, track, whip_site
from tests.support.waiting import until

SDP = {"Content-Type": "application/sdp"}
FRAGMENT = {"Content-Type": "application/trickle-ice-sdpfrag"}


def assert_problem(response: httpx.Response, status: int, *words: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["title"]
    for word in words:
        assert word in body["detail"]


async def post(site: Site, offer: str = OFFER, camera: str = "door", **headers: str) -> httpx.Response:
    return await site.client.post(site.url(camera), content=offer, headers={**SDP, **headers})


async def test_accepted_offer() -> None:
    servers = (
        IceServer("stun:stun.example.net:3478"),
        IceServer("turn:turn.example.net?transport=udp", "ann", 'pa"ss\\'),
    )
    async with whip_site(WhipSettings(ice_servers=servers)) as site:
        response = await post(site)
        assert response.status_code == 201
        assert response.headers["content-type"] == "application/sdp"
        assert re.fullmatch(r"/whip/door/[\w-]{32}", response.headers["location"])
        assert "etag" not in response.headers
        assert response.headers.get_list("link") == [
            '<stun:stun.example.net:3478>; rel="ice-server"',
            '<turn:turn.example.net?transport=udp>; rel="ice-server"; username="ann"; credential="pa\\"ss\\\\"; '
            'credential-type="password"',
        ]
        answer = response.text
        assert "a=recvonly" in answer
        assert "a=candidate:" in answer
        assert "a=end-of-candidates" in answer
        assert "a=setup:active" in answer
        assert [source.camera for source in site.sources] == ["door"]


async def test_session_urls_are_not_guessable_and_never_repeat() -> None:
    async with whip_site() as site:
        urls = {(await post(site, camera=f"cam{i}")).headers["location"].rsplit("/")[-1] for i in range(4)}
        assert len(urls) == 4


async def test_content_type_decides_before_any_work() -> None:
    async with whip_site() as site:
        for content_type in ("application/json", "text/plain", ""):
            response = await site.client.post(site.url(), content=OFFER, headers={"Content-Type": content_type})
            assert_problem(response, 415, "application/sdp")
        response = await post(site, **{"Content-Type": "Application/SDP; charset=utf-8"})
        assert response.status_code == 201


@pytest.mark.parametrize(
    "body",
    [
        "",
        "hello",
        "v=0",
        "v=0\r\nm=video\r\n",
        OFFER.replace("m=video 9", "m=video nine"),
        OFFER.replace("a=ice-ufrag:abcd\r\n", ""),
        OFFER.replace("a=setup:actpass", "a=setup:holdconn"),
        OFFER.replace("a=setup:actpass\r\n", ""),
        re.sub("a=fingerprint:.*\r\n", "", OFFER),
        OFFER.replace("a=mid:0\r\n", ""),
        OFFER.replace("BUNDLE 0", "BUNDLE 7"),
        OFFER.replace("a=fmtp:98 apt=97", "a=fmtp:55 apt=97"),
        OFFER.replace("a=fmtp:98 apt=97", "a=fmtp:98 apt=x"),
        OFFER + "a=candidate:1 1 udp 1 192.0.2.1 99999 typ host\r\n",
        OFFER + "a=candidate:rubbish\r\n",
        OFFER + "".join(f"a=candidate:{i} 1 udp 1 192.0.2.1 {1000 + i} typ host\r\n" for i in range(65)),
    ],
)
async def test_malformed_sdp(body: str) -> None:
    async with whip_site() as site:
        assert_problem(await post(site, body), 400)
        assert site.server.num_sessions == 0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (OFFER.replace("a=sendonly", "a=recvonly"), "receives"),
        (OFFER.replace("a=sendonly", "a=inactive"), "receives"),
        (OFFER.replace("VP8", "VP9").replace("H264", "H265"), "VP9"),
        (OFFER.replace("VP8", "VP9").replace("mode=1", "mode=2"), "H.264"),
        (OFFER.replace("BUNDLE 0", "BUNDLE 0 1") + AUDIO.replace("sendonly", "recvonly"), "recvonly"),
        (OFFER + AUDIO, "BUNDLE"),
        (OFFER.replace("BUNDLE 0", "BUNDLE 0 1") + OFFER[OFFER.index("m=") :].replace("mid:0", "mid:1"), "2 video"),
        ("v=0\r\na=group:BUNDLE 1\r\n" + AUDIO, "0 video"),
        (OFFER + "m=message 2855 TCP/MSRP *\r\na=mid:1\r\n", "not accepted"),
        (OFFER.replace("a=rtcp-mux\r\n", ""), "rtcp-mux"),
        (OFFER.replace("sha-256", "sha-1"), "sha-256"),
    ],
)
async def test_unusable_offers_are_refused(body: str, words: str) -> None:
    async with whip_site() as site:
        assert_problem(await post(site, body), 422, words)
        assert site.server.num_sessions == 0
        assert site.sources == []


async def test_direction_is_optional_or_at_session_level_and_audio_is_declined() -> None:
    async with whip_site() as site:
        assert (await post(site, OFFER.replace("a=sendonly\r\n", ""))).status_code == 201
        assert_problem(await post(site, OFFER.replace("a=sendonly\r\n", "").replace("s=-", "s=-\r\na=recvonly")), 422)
        answer = (await post(site, OFFER.replace("BUNDLE 0", "BUNDLE 0 1") + AUDIO)).text
        video, audio = answer.split("m=video")[1].split("m=audio")
        assert "a=recvonly" in video
        assert "a=inactive" in audio


@pytest.mark.parametrize(
    "parameters",
    ["packetization-mode=1;profile-level-id=64001f", "packetization-mode=1;profile-level-id=4d0032", ""],
)
async def test_all_h264_profiles_are_accepted_and_answered_as_offered(parameters: str) -> None:
    """Hardware encoders offer the High or Main profile, and some clients no parameters at all."""
    offer = OFFER.replace("VP8", "VP9").replace("packetization-mode=1;profile-level-id=42e01f", parameters)
    async with whip_site() as site:
        answered = await post(site, offer.replace("a=fmtp:99 \r\n", ""))
    assert answered.status_code == 201
    (told,) = re.findall("a=fmtp:99 (.*)\r\n", answered.text)
    for each in filter(None, parameters.split(";")):
        assert each in told
    if not parameters:
        assert "profile" not in told
        assert "packetization" not in told


@pytest.mark.parametrize(("sound", "payload_type"), [("mpeg4-generic/44100/2", 97), ("mp4a-latm/90000", 111)])
async def test_sound_of_any_codec_is_declined_in_the_terms_of_the_offer(sound: str, payload_type: int) -> None:
    audio = AUDIO.replace("opus/48000/2", sound).replace("111", str(payload_type))
    async with whip_site() as site:
        answered = await post(site, OFFER.replace("BUNDLE 0", "BUNDLE 0 1") + audio)
    assert answered.status_code == 201
    section = answered.text.split("m=audio")[1]
    assert section.split("\r\n")[0].endswith(f" {payload_type}")
    assert f"a=rtpmap:{payload_type} {sound}" in section
    assert "opus" not in section
    assert "a=inactive" in section


async def test_retransmission_needs_to_name_its_stream() -> None:
    """A repeated packet in a stream that belongs to no other is useless, and the sender would repeat nothing else."""
    named = "a=ssrc-group:FID 1 2\r\na=ssrc:1 cname:x\r\na=ssrc:2 cname:x\r\n"
    async with whip_site() as site:
        assert "rtx" not in (await post(site)).text
        assert "a=fmtp:98 apt=97\r\n" in (await post(site, OFFER + named)).text


@pytest.mark.parametrize(("offered", "accepted"), [("q;h;f", "f"), ("1;2;3", "1;2;3"), ("high;~low,lower", "high")])
async def test_the_largest_layer_of_a_simulcast_is_accepted_or_all(offered: str, accepted: str) -> None:
    names = re.findall(r"\w+", offered)
    offer = OFFER + "a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id\r\n"
    offer += "".join(f"a=rid:{name} send\r\n" for name in names) + f"a=simulcast:send {offered}\r\n"
    async with whip_site() as site:
        answer = (await post(site, offer)).text
    assert f"a=simulcast:recv {accepted}\r\n" in answer
    assert re.findall(r"a=rid:(\w+) recv", answer) == accepted.split(";")
    assert "a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id\r\n" in answer


async def test_candidates_with_host_names_are_ignored() -> None:
    async with whip_site() as site:
        offer = OFFER + "a=candidate:1 1 udp 1 printer.example 4000 typ host\r\n"
        assert (await post(site, offer)).status_code == 201


async def test_bodies_are_limited() -> None:
    async with whip_site(WhipSettings(max_offer_bytes=2048)) as site:

        async def endless() -> None:
            for chunk in chunks(OFFER.encode() * 5, 500):
                yield chunk

        assert_problem(await site.client.post(site.url(), content=endless(), headers=SDP), 413, "2048")
        assert_problem(await site.client.post(site.url(), content=b"v=0\r\n\xff\xfe", headers=SDP), 400, "UTF-8")


async def test_tokens() -> None:
    async with whip_site() as site:
        response = await post(site, Authorization="Bearer wrong")
        assert_problem(response, 401)
        assert response.headers["www-authenticate"] == "Bearer"
        assert_problem(await post(site, camera="other"), 403)
        assert_problem(await post(site, camera="unknown"), 404, "no such camera")
        assert_problem(await post(site, camera="No%20Slug"), 404)
        # Before any work: a wrong token with rubbish in a wrong type is still only a wrong token.
        assert_problem(await post(site, "rubbish", **{"Authorization": "x", "Content-Type": "text/html"}), 401)
        location = (await post(site)).headers["location"]
        for method in ("DELETE", "PATCH", "GET"):
            assert_problem(await site.client.request(method, site.base + location, headers={"Authorization": ""}), 401)
        assert site.server.num_sessions == 1
        assert site.server.counters.rejected[401] == 5


async def test_too_many_sessions() -> None:
    async with (
        whip_site(WhipSettings(max_sessions=2)) as site,
        publish(site.url("a"), TOKEN, track(), client=site.client),
        publish(site.url("b"), TOKEN, track(), client=site.client),
    ):
        await until(lambda: all(source.stats.received for source in site.sources))
        response = await post(site, camera="c")
        assert_problem(response, 503)
        assert int(response.headers["retry-after"]) > 0
        assert (await post(site, camera="b")).status_code == 201  # a takeover needs no free place
        assert [source.stats.state for source in site.sources] == ["live", "live", "starting"]


async def test_offers_that_never_connect_do_not_block_others() -> None:
    """The oldest session of the token with the most sessions is closed."""
    owners = {"owner_of": lambda request: request.headers.get("x-owner", "")}
    async with whip_site(WhipSettings(max_sessions=4), **owners) as site:
        assert (await post(site, camera="honest", **{"x-owner": "honest"})).status_code == 201
        for number in range(12):
            assert (await post(site, camera=f"x{number}", **{"x-owner": "hostile"})).status_code == 201
        live = [source.camera for source in site.sources if source.stats.state == "starting"]
        assert live == ["honest", "x9", "x10", "x11"]
        assert site.server.num_sessions == 4
        async with publish(site.url(), TOKEN, track(), client=site.client):
            assert await take(site.sources[-1].frames(), 1)
        assert site.server.counters.closed["gave_way"] == 10
        await until(lambda: len(site.server._past) <= 5)  # names alone leave nothing behind


HERE_ONLY = ("127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::")
ON_A_LINK = ("169.254.169.254", "fe80::1", "::ffff:169.254.1.1")
NEVER = ("224.0.0.251", "239.1.2.3", "ff02::fb", "0.0.0.0", "0.1.2.3", "::", "255.255.255.255", "240.0.0.1")
USUAL = ("192.0.2.7", "10.1.2.3", "192.168.1.9", "2001:db8::7", "fd00::7", "0a1b2c3d-1111-2222-3333-444455556666.local")


@pytest.mark.parametrize(
    ("client", "allowed"),
    [
        ("203.0.113.5", USUAL),
        (None, USUAL),
        ("127.0.0.1", USUAL + HERE_ONLY + ON_A_LINK),
        ("fe80::9", USUAL + ON_A_LINK),
    ],
)
def test_candidates_must_be_addresses_of_the_publisher(client: str | None, allowed: tuple[str, ...]) -> None:
    addresses = HERE_ONLY + ON_A_LINK + NEVER + USUAL
    used = {address for address in addresses if usable_candidate(f"1 1 udp 1 {address} 4000 typ host", client)}
    assert used == set(allowed)


async def test_few_candidates_of_an_offer_and_of_all_fragments_are_used() -> None:
    async with whip_site() as site:
        many = "".join(f"a=candidate:{i} 1 udp 1 192.0.2.{i} 4000 typ host\r\n" for i in range(12))
        location = site.base + (await post(site, OFFER + many)).headers["location"]
        for start in (20, 40, 60):
            more = "".join(f"a=candidate:{i} 1 udp 1 192.0.2.{i} 4000 typ host\r\n" for i in range(start, start + 12))
            assert (await site.client.patch(location, content=more, headers=FRAGMENT)).status_code == 204
        (entry,) = site.server._entries.values()
        (transceiver,) = entry.session._peer.getTransceivers()
        assert len(transceiver.receiver.transport.transport._connection.remote_candidates) == 16
        too_many = "".join(f"a=candidate:{i} 1 udp 1 192.0.2.{i} 4000 typ host\r\n" for i in range(65))
        assert_problem(await post(site, OFFER + too_many), 400, "64")


async def test_a_client_behind_a_proxy_of_this_machine_is_not_local() -> None:
    offer = OFFER + "a=candidate:1 1 udp 1 127.0.0.1 4000 typ host\r\n"
    async with whip_site() as site:
        for headers, num in (({}, 1), ({"X-Forwarded-For": "203.0.113.5"}, 0), ({"Forwarded": "for=203.0.113.5"}, 0)):
            await post(site, offer, **headers)
            (entry,) = site.server._entries.values()
            assert entry.num_candidates == num


async def test_the_session_limit_holds_for_simultaneous_offers() -> None:
    async with whip_site(WhipSettings(max_sessions=2)) as site:
        answers = await asyncio.gather(*(post(site, camera=f"c{i}") for i in range(5)))
        assert sorted(answer.status_code for answer in answers) == [201, 201, 503, 503, 503]
        assert site.server.num_sessions == 2


async def test_redirect_concerns_the_post_only() -> None:
    async with whip_site(locate=lambda camera: "https://b.example/whip/far" if camera == "far" else None) as site:
        response = await post(site, camera="far")
        assert response.status_code == 307
        assert response.headers["location"] == "https://b.example/whip/far"
        assert_problem(await post(site, camera="far", Authorization="Bearer wrong"), 401)
        assert (await site.client.get(site.url("far"))).status_code == 204
        assert_problem(await site.client.delete(site.url("far") + "/abc"), 404)
        assert (await post(site)).status_code == 201


async def test_delete() -> None:
    async with whip_site() as site:
        location = site.base + (await post(site)).headers["location"]
        assert (await site.client.delete(location)).status_code == 200
        assert_problem(await site.client.delete(location), 404)
        assert_problem(await site.client.delete(site.url() + "/nonsense"), 404)
        assert site.server.num_sessions == 0
        assert site.server.counters.closed == {"deleted": 1}
        assert await take(site.sources[0].frames(), 1) == []  # the end of a stream is not an error


async def test_session_of_another_camera_is_unknown() -> None:
    async with whip_site() as site:
        location = (await post(site)).headers["location"]
        assert_problem(await site.client.delete(site.base + location.replace("/door/", "/gate/")), 404)
        assert site.server.num_sessions == 1


async def test_trickle() -> None:
    async with whip_site() as site:
        location = site.base + (await post(site)).headers["location"]
        body = (
            "a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuv\r\nm=video 9 UDP/TLS/RTP/SAVPF 97\r\na=mid:0\r\n"
            "a=candidate:1 1 udp 2122260223 192.0.2.77 61764 typ host generation 0 ufrag abcd network-id 1\r\n"
            "a=candidate:2 1 tcp 1518214911 192.0.2.77 9 typ host tcptype active\r\na=end-of-candidates\r\n"
        )
        response = await site.client.patch(location, content=body, headers=FRAGMENT)
        assert response.status_code == 204
        assert response.content == b""
        assert_problem(await site.client.patch(location, content=body, headers=SDP), 415, "trickle-ice-sdpfrag")
        for rubbish in ("", "rubbish", "a=candidate:rubbish", "a=candidate:1 1 udp 1 192.0.2.1 0 typ host"):
            assert_problem(await site.client.patch(location, content=rubbish, headers=FRAGMENT), 400)
        many = "".join(f"a=candidate:{i} 1 udp 1 192.0.2.1 {1000 + i} typ host\r\n" for i in range(65))
        assert_problem(await site.client.patch(location, content=many, headers=FRAGMENT), 400, "64")
        assert_problem(await site.client.patch(site.url() + "/gone", content=body, headers=FRAGMENT), 404)


async def test_ice_restart_is_refused_and_the_session_lives() -> None:
    async with whip_site() as site:
        location = site.base + (await post(site)).headers["location"]
        restart = "a=ice-ufrag:new1\r\na=ice-pwd:newnewnewnewnewnewnewnew\r\n"
        assert_problem(await site.client.patch(location, content=restart, headers=FRAGMENT), 422, "ICE restart")
        same = "a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuv\r\na=end-of-candidates\r\n"
        headers = {**FRAGMENT, "If-Match": "*"}
        assert_problem(await site.client.patch(location, content=same, headers=headers), 422)
        headers = {**FRAGMENT, "If-Match": '"x"'}
        assert_problem(await site.client.patch(location, content=same, headers=headers), 412)
        assert (await site.client.get(location)).status_code == 204
        assert site.server.num_sessions == 1


async def test_get_and_head_have_no_representation() -> None:
    async with whip_site() as site:
        location = site.base + (await post(site)).headers["location"]
        for url in (site.url(), location):
            for method in ("GET", "HEAD"):
                response = await site.client.request(method, url)
                assert response.status_code == 204
                assert response.content == b""
        assert_problem(await site.client.get(site.url() + "/gone"), 404)


async def test_other_methods() -> None:
    async with whip_site() as site:
        response = await site.client.put(site.url(), content=OFFER)
        assert_problem(response, 405)
        assert "POST" in response.headers["allow"]
        assert_problem(await site.client.delete(site.url()), 405)
        assert_problem(await site.client.post(site.url() + "/abc", content=OFFER, headers=SDP), 405)


async def test_preflight_needs_no_token() -> None:
    async with whip_site() as site, httpx.AsyncClient() as browser:
        origin = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
        for url in (site.url(), site.url() + "/abc"):
            response = await browser.options(url, headers=origin)
            assert response.status_code == 204
            assert response.headers["access-control-allow-origin"] == "*"
            assert "Authorization" in response.headers["access-control-allow-headers"]
            assert response.headers["accept-post"] == "application/sdp"
        assert "PATCH" in response.headers["access-control-allow-methods"]
        exposed = (await post(site)).headers["access-control-expose-headers"]
        assert exposed == "Location, Link"
        refused = await browser.post(site.url(), content=OFFER, headers=SDP)
        assert refused.headers["access-control-allow-origin"] == "*"  # else a page cannot read the reason


async def test_the_answer_names_one_fingerprint() -> None:
    """With several, libdatachannel 0.24 (node-datachannel) refused 5 of 14 handshakes; with one, none of 16."""
    async with whip_site() as site:
        assert re.findall("a=fingerprint:(.*?) ", (await post(site)).text) == ["sha-256"]


async def test_answer_tells_chrome_its_bitrates() -> None:
    async with whip_site() as site:
        answer = (await post(site)).text
    told = "x-google-min-bitrate=1000;x-google-start-bitrate=2500;x-google-max-bitrate=4000"
    assert f"a=fmtp:97 {told}" in answer
    assert re.search(f"a=fmtp:99 .*profile-level-id=42e01f.*;{told}\r\n", answer)
    assert with_bitrates("m=audio 1\r\na=rtpmap:1 opus/48000\r\n").count("x-google") == 0


async def test_only_a_sessions_first_frame_takes_the_camera_over() -> None:
    taken: list[Source] = []
    async with whip_site() as site:
        site.server._on_session = lambda camera, source: taken.append(source)
        async with publish(site.url(), TOKEN, track(), client=site.client) as live:
            await until(lambda: len(taken) == 1)
            silent = [site.base + (await post(site)).headers["location"] for _ in range(2)]
            assert_problem(await post(site, "rubbish"), 400)
            await asyncio.sleep(0.5)
            assert (await site.client.get(live.session_url)).status_code == 204
            assert len(await take(site.sources[0].frames(), 2)) == 2  # it goes on
            assert_problem(await site.client.get(silent[0]), 410)  # the same owner's later offer replaced it
            assert (await site.client.get(silent[1])).status_code == 204
            assert (len(taken), site.server.counters.takeovers) == (1, 0)
            async with publish(site.url(), TOKEN, track(), client=site.client) as second:
                await until(lambda: len(taken) == 2)
                assert_problem(await site.client.get(live.session_url), 410)  # so that it does not take it back
                assert (await site.client.get(second.session_url)).status_code == 204
        assert taken == [site.sources[0], site.sources[3]]
        assert site.server.counters.takeovers == 1
        assert [source.stats.reconnects for source in taken] == [0, 1]


async def test_an_older_offer_does_not_take_over_from_a_newer_one() -> None:
    owners = {"owner_of": lambda request: request.headers.get("x-owner", "")}
    async with whip_site(**owners) as site:
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        peer.addTransceiver(track(), direction="sendonly")
        await peer.setLocalDescription(await peer.createOffer())
        response = await post(site, peer.localDescription.sdp, **{"x-owner": "slow"})
        async with publish(site.url(), TOKEN, track(), client=site.client) as newer:
            await until(lambda: site.sources[1].stats.received > 0)
            await peer.setRemoteDescription(RTCSessionDescription(response.text, "answer"))
            await until(lambda: site.server.counters.closed["replaced"] == 1)
            assert (await site.client.get(newer.session_url)).status_code == 204
            assert_problem(await site.client.get(site.base + response.headers["location"]), 410)
        await peer.close()


async def test_a_closed_server_accepts_no_sessions() -> None:
    async with whip_site() as site:
        await post(site)
        await site.server.close()
        assert site.server.num_sessions == 0
        assert_problem(await post(site), 503)


async def test_a_session_that_never_connects_ends() -> None:
    async with whip_site(WhipSettings(connect_timeout_s=0.2)) as site:
        await post(site)
        assert await take(site.sources[0].frames(), 1) == []
        assert site.server.counters.closed == {"ice_failed": 1}


async def test_candidates_that_are_only_trickled_connect() -> None:
    """Some browsers POST first and send their candidates by PATCH."""
    async with whip_site() as site:
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        peer.addTransceiver(track(), direction="sendonly")
        await peer.setLocalDescription(await peer.createOffer())
        lines = peer.localDescription.sdp.splitlines()
        late = [line for line in lines if line.startswith(("a=candidate:", "a=end-of-candidates"))]
        response = await post(site, "\r\n".join(line for line in lines if line not in late) + "\r\n")
        await peer.setRemoteDescription(RTCSessionDescription(response.text, "answer"))
        location = site.base + response.headers["location"]
        for line in late:
            assert (await site.client.patch(location, content=line, headers=FRAGMENT)).status_code == 204
        assert len(await take(site.sources[0].frames(), 2)) == 2
        await peer.close()


async def test_takeover_by_a_second_peer_goes_on_in_time() -> None:
    async with whip_site(frames=FrameSettings(rate_hz=10.0)) as site:
        async with publish(site.url(), TOKEN, track(), client=site.client):
            first = await take(site.sources[0].frames(), 3)
            async with publish(site.url(), TOKEN, track(), client=site.client):
                second = await take(site.sources[1].frames(), 3)
                assert site.server.num_sessions == 1
        times = [frame.time for frame in first + second]
        assert times == sorted(set(times))
        assert site.sources[0].stats.state == "closed"


def test_settings_are_checked() -> None:
    for wrong in ("http://x", "stun:", "turn:host"):
        with pytest.raises(ValueError, match="ICE server"):
            IceServer(wrong)
    with pytest.raises(ValueError, match="ASCII"):
        IceServer("turn:host", "ann\r\nX: y", "pw")
    with pytest.raises(ValueError, match="max_sessions"):
        WhipSettings(max_sessions=0)
    assert WhipServer(lambda camera, source: None, authorize).num_sessions == 0


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mangled_offers_are_accepted_or_refused_cleanly(data: st.DataObject) -> None:
    """For any text, the check raises nothing but its two exceptions."""
    lines = (OFFER.replace("BUNDLE 0", "BUNDLE 0 1") + AUDIO).split("\r\n")
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(lines) - 1))
        how = data.draw(st.sampled_from(["drop", "cut", "double", "text", "swap"]))
        line = lines[position]
        if how == "drop":
            lines[position] = ""
        elif how == "cut":
            lines[position] = line[: data.draw(st.integers(0, len(line)))]
        elif how == "double":
            lines.insert(position, line)
        elif how == "text":
            lines[position] = line[:5] + data.draw(st.text(max_size=20))
        else:
            other = data.draw(st.integers(0, len(lines) - 1))
            lines[position], lines[other] = lines[other], line
    with suppress(OfferMalformed, OfferUnusable):
        assert check_offer("\r\n".join(lines)).mid


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_mangled_fragments_are_accepted_or_refused_cleanly(text: str) -> None:
    for fragment in (text, "a=candidate:" + text, "a=ice-ufrag:" + text):
        with suppress(OfferMalformed):
            assert parse_fragment(fragment).candidates is not None
