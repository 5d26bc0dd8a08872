"""Check the SDP (session descriptions) that publishers send, before any work is done, and complete the SDP answers.

Covers offers, trickled ICE candidates (`application/trickle-ice-sdpfrag`, RFC 8840), and what answers say about
bitrates and ICE servers. Text in, text out.
"""

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass

from aioice.mdns import is_mdns_hostname
from aiortc.codecs import CODECS, is_rtx
from aiortc.rtcpeerconnection import find_common_codecs
from aiortc.sdp import DIRECTIONS, MediaDescription, SessionDescription, candidate_from_sdp

from streaming.sdp_codecs import as_offered, for_aiortc

MAX_CANDIDATES = 16  # so many are used in a session; each is paired with each of our addresses
MAX_OFFERED_CANDIDATES = 64  # browsers with many addresses send more than are used, but not this many
_MAX_SECTIONS = 8
BITRATES = "x-google-min-bitrate=1000;x-google-start-bitrate=2500;x-google-max-bitrate=4000"
"""Kilobits a second for Chrome, as SDP format parameters. Without them it starts near 400, at 640x360."""
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")  # Linux delivers some of it to itself
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last four bytes are an IPv4 address
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_FINGERPRINTS = frozenset({"sha-256", "sha-384", "sha-512"})
# what aiortc's parser raises on malformed text, as it has no error type of its own
PARSE_ERRORS = (AssertionError, AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError)


class OfferMalformed(Exception):
    """The text is not a valid WebRTC offer or fragment of ICE candidates."""


class OfferUnusable(Exception):
    """A valid WebRTC offer that this server cannot accept."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A checked offer. `sdp`: the text for aiortc. `mid`: the section that carries the transport.

    `named_candidates`: the values of those with an mDNS name instead of an address, which are not in `sdp`.
    """

    text: str
    sdp: str
    mid: str
    ice_ufrag: str
    ice_pwd: str
    num_candidates: int  # usable ones, with the named ones
    named_candidates: tuple[str, ...]


def check_offer(text: str, client: str | None = None, *, viewer: bool = False) -> Offer:
    """Return the checked offer. Raises OfferMalformed or OfferUnusable with a sentence for the publisher.

    `client`: the address that the offer came from, for `usable_candidate`. `viewer`: who sends it wants to receive.
    """
    if not text.startswith("v=0"):
        raise OfferMalformed("the body is not SDP (it must begin with v=0)")
    text, num_candidates, named = _normalised(text, client)
    try:
        SessionDescription.parse(text)
        sdp = text if viewer else for_aiortc(text)
        parsed = SessionDescription.parse(sdp)
    except PARSE_ERRORS as error:
        raise OfferMalformed(f"the SDP cannot be parsed ({type(error).__name__}: {str(error)[:100]})") from None
    _check_sections(parsed)
    mid = _check_bundle(parsed)
    for media in parsed.media:
        _check_transport(media)
        if media.kind == "application":
            _check_data(media)
        else:
            _check_direction(media, viewer)
            _check_codecs(media)
    ice = parsed.media[0].ice
    return Offer(text, sdp, mid, ice.usernameFragment or "", ice.password or "", num_candidates, named)


def _normalised(text: str, client: str | None) -> tuple[str, int, tuple[str, ...]]:
    """Return the offer for aiortc, the number of usable candidates, and the values of those with an mDNS name.

    Each media section gets a direction. Unusable and named candidates are removed. So is `a=end-of-candidates`: after
    it, aioice would gather nothing if no candidate is left, although the publisher can still reach this server.
    """
    session_direction = "sendrecv"  # the default of RFC 8866
    sections: list[list[str]] = [[]]
    num_offered = num_candidates = 0
    named: list[str] = []
    for line in text.splitlines():
        if line.startswith("m="):
            sections.append([])
        if line.startswith("a=candidate:"):
            num_offered += 1
            if not usable_candidate(line.removeprefix("a=candidate:"), client) or num_candidates >= MAX_CANDIDATES:
                continue
            num_candidates += 1
            if _has_name(line):
                named.append(line.removeprefix("a=candidate:"))
                continue
        if line.strip() == "a=end-of-candidates":
            continue
        if len(sections) == 1 and line[2:].strip() in DIRECTIONS:
            session_direction = line[2:].strip()
        if line.strip():
            sections[-1].append(line.rstrip())
    check_number(num_offered)
    for section in sections[1:]:
        if not any(line.startswith("a=") and line[2:] in DIRECTIONS for line in section):
            section.append(f"a={session_direction}")
    return "\r\n".join(line for section in sections for line in section) + "\r\n", num_candidates, tuple(named)


def check_number(num_offered: int) -> None:
    """Raise OfferMalformed if there are more candidates than any machine has addresses."""
    if num_offered > MAX_OFFERED_CANDIDATES:
        raise OfferMalformed(f"{num_offered} ICE candidates; send at most {MAX_OFFERED_CANDIDATES}")


def usable_candidate(value: str, client: str | None = None) -> bool:
    """Return whether this server may send connectivity checks to an ICE candidate. Raises OfferMalformed.

    False for TCP, which aiortc does not support, and for host names except mDNS names (RFC 8839 allows ignoring them).
    False also for addresses that may reach another machine than the publisher's: multicast and unassigned ones,
    loopback unless `client` is loopback, link-local unless `client` is link-local. `client`: the publisher's address.
    """
    try:
        candidate = candidate_from_sdp(value)
    except PARSE_ERRORS:
        raise OfferMalformed(f"malformed ICE candidate: {value[:100]!r}") from None
    if not (0 < candidate.port < 65536 and 0 < candidate.component <= 256):
        raise OfferMalformed(f"ICE candidate out of range: {value[:100]!r}")
    if candidate.protocol.lower() != "udp" or candidate.component != 1:
        return False
    if _has_name(value):
        return True
    address, origin = _address(candidate.ip), _address(client or "")
    if address is None or address.is_multicast or address.is_unspecified:
        return False
    from_here = origin is not None and origin.is_loopback
    if address.is_loopback:
        return from_here
    if address.is_link_local:
        return from_here or (origin is not None and origin.is_link_local)
    return not address.is_reserved and not (address.version == 4 and address in _THIS_NETWORK)


def _has_name(candidate: str) -> bool:
    """Return whether the candidate has an mDNS name, which browsers use to hide their addresses."""
    return is_mdns_hostname(candidate.split()[4])


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the IP address to which packets go, None if the text is not an address.

    For an IPv6 address with an embedded IPv4 address, this is the IPv4 address.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _TRANSLATED or (address in _COMPATIBLE and not address.is_loopback):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _check_sections(parsed: SessionDescription) -> None:
    if not parsed.media:
        raise OfferMalformed("the SDP has no media section")
    if len(parsed.media) > _MAX_SECTIONS:
        raise OfferUnusable(f"{len(parsed.media)} media sections; offer one video track, with or without sound")
    for media in parsed.media:
        if media.kind not in ("audio", "video", "application"):
            raise OfferUnusable(f"{media.kind[:20]!r} sections are not accepted; offer video")
    if sum(media.kind == "application" for media in parsed.media) > 1:
        raise OfferUnusable("several data channel sections; send one, which carries all channels")
    num_video = sum(media.kind == "video" for media in parsed.media)
    if num_video != 1:
        raise OfferUnusable(f"{num_video} video tracks; offer exactly one (one camera per session)")


def _check_bundle(parsed: SessionDescription) -> str:
    mids = [media.rtp.muxId or "" for media in parsed.media]
    if len(set(mids)) != len(mids) or not all(re.fullmatch(r"[!-~]{1,64}", mid) for mid in mids):
        raise OfferMalformed("each media section needs its own a=mid")
    bundled: list[str] = next((group.items for group in parsed.group if group.semantic == "BUNDLE"), [])
    if not set(bundled) <= set(mids):
        raise OfferMalformed("a=group:BUNDLE names a section that is not there")
    if len(mids) > 1 and set(bundled) != set(mids):
        raise OfferUnusable("all media sections must share one transport (a=group:BUNDLE)")
    return str(bundled[0]) if bundled else mids[0]


def _check_transport(media: MediaDescription) -> None:
    if not media.ice.usernameFragment or not media.ice.password:
        raise OfferMalformed("a=ice-ufrag or a=ice-pwd is missing")
    if media.dtls is None or not media.dtls.fingerprints:
        raise OfferMalformed("a=setup or a=fingerprint is missing; unencrypted video is not accepted")
    if not any(fingerprint.algorithm.lower() in _FINGERPRINTS for fingerprint in media.dtls.fingerprints):
        raise OfferUnusable("no a=fingerprint with a supported hash; send sha-256")
    if not media.rtcp_mux and media.kind != "application":
        raise OfferUnusable("a=rtcp-mux is required")


def _check_data(media: MediaDescription) -> None:
    if media.profile not in ("UDP/DTLS/SCTP", "TCP/DTLS/SCTP") or media.fmt != ["webrtc-datachannel"]:
        raise OfferUnusable("an application section that is no data channel; offer UDP/DTLS/SCTP webrtc-datachannel")
    if media.sctp_port is None or not 0 < media.sctp_port < 65536:
        raise OfferMalformed("a=sctp-port of the data channel is missing or out of range")
    if media.sctpCapabilities is not None and media.sctpCapabilities.maxMessageSize < 0:
        raise OfferMalformed("a=max-message-size of the data channel is below 0")


def _check_direction(media: MediaDescription, viewer: bool) -> None:
    if viewer:
        if media.kind == "video" and media.direction not in ("recvonly", "sendrecv"):
            raise OfferUnusable(f"the video is offered {media.direction}; this server only sends: offer it recvonly")
        return
    if media.kind == "video" and media.direction not in ("sendonly", "sendrecv"):
        raise OfferUnusable(f"the video is offered {media.direction}; this server only receives: offer it sendonly")
    if media.direction == "recvonly":
        raise OfferUnusable("a section is offered recvonly; this server only receives: offer sendonly or sendrecv")


def _check_codecs(media: MediaDescription) -> None:
    try:
        common = [codec for codec in find_common_codecs(CODECS[media.kind], media.rtp.codecs) if not is_rtx(codec)]
    except PARSE_ERRORS as error:
        raise OfferMalformed(f"malformed format parameters ({type(error).__name__})") from None
    if not common:
        offered = sorted({codec.name[:20] for codec in media.rtp.codecs})[:10]
        raise OfferUnusable(f"no usable video codec among {', '.join(offered) or 'none'}; offer VP8 or H.264")


@dataclass(frozen=True, slots=True)
class Fragment:
    """A parsed fragment of ICE candidates. `candidates`: the usable ones, as the values after `candidate:`."""

    ice_ufrag: str | None
    ice_pwd: str | None
    candidates: tuple[str, ...]

    def restarts(self, ice_ufrag: str, ice_pwd: str) -> bool:
        """Return whether the fragment requests an ICE restart: its credentials are not the given ones (RFC 9725)."""
        return self.ice_ufrag not in (None, ice_ufrag) or self.ice_pwd not in (None, ice_pwd)


def parse_fragment(text: str, client: str | None = None) -> Fragment:
    """Parse a fragment of trickled candidates (sent after the offer). Raises OfferMalformed.

    `client`: the sender's address, for `usable_candidate`. Media sections are ignored, because `check_offer` made sure
    that all of them share one transport.
    """
    num_named = 0
    values: dict[str, str] = {}
    candidates: list[str] = []
    ended = False
    for line in text.splitlines():
        if not line.strip():
            continue
        if len(line) < 3 or line[1] != "=":
            raise OfferMalformed(f"not a line of an SDP fragment: {line[:60]!r}")
        name, _, value = line[2:].strip().partition(":")
        if line[0] != "a":
            continue
        if name in ("ice-ufrag", "ice-pwd"):
            values.setdefault(name, value)
        elif name == "candidate":
            num_named += 1
            if usable_candidate(value, client):
                candidates.append(value)
        elif name == "end-of-candidates":
            ended = True
    if not values and not num_named and not ended:
        raise OfferMalformed("the fragment holds neither candidates nor ICE credentials")
    check_number(num_named)
    return Fragment(values.get("ice-ufrag"), values.get("ice-pwd"), tuple(candidates))


@dataclass(frozen=True, slots=True)
class IceServer:
    """A STUN or TURN server that publishers can use. TURN needs a user name and a credential."""

    url: str
    username: str | None = None
    credential: str | None = None

    def __post_init__(self) -> None:
        if self.url.partition(":")[0] not in ("stun", "stuns", "turn", "turns") or not self.url.partition(":")[2]:
            raise ValueError(f"ICE server {self.url!r}: use stun:host:port or turn:host:port")
        if self.url.startswith("turn") and not (self.username and self.credential):
            raise ValueError(f"ICE server {self.url!r}: TURN needs username and credential")
        if any(not 32 <= ord(c) < 127 or c in "<>" for c in self.url + (self.username or "") + (self.credential or "")):
            raise ValueError(f"ICE server {self.url!r}: only printable ASCII without <> is allowed")

    def link(self) -> str:
        """Return the value of the `Link` header that names this server (RFC 9725 section 4.6)."""
        parts = [f"<{self.url}>", 'rel="ice-server"']
        if self.username is not None and self.credential is not None:
            parts += [f"username={_quoted(self.username)}", f"credential={_quoted(self.credential)}"]
            parts.append('credential-type="password"')
        return "; ".join(parts)


def complete_answer(answer_sdp: str, offer: Offer) -> str:
    """Return aiortc's answer to the offer as the publisher gets it.

    Of the certificate's fingerprints it names sha-256 only. libdatachannel, and so OBS, takes one of several at random and
    then refuses a third of all handshakes.
    """
    one_fingerprint = re.sub(r"a=fingerprint:(?!sha-256).*\r\n", "", answer_sdp)
    return with_bitrates(as_offered(one_fingerprint, offer.text))


def with_bitrates(answer_sdp: str) -> str:
    """Return the answer with BITRATES added to every video codec except retransmission formats."""
    return "".join(f"{line}\r\n" for line in _with_bitrates(answer_sdp.splitlines()))


def _with_bitrates(lines: list[str]) -> Iterator[str]:
    has_fmtp = {line[7:].split(" ", 1)[0] for line in lines if line.startswith("a=fmtp:")}
    video = False
    for line in lines:
        if line.startswith("m="):
            video = line.startswith("m=video")
        payload_type, _, rest = line.partition(":")[2].partition(" ")
        if video and line.startswith("a=fmtp:") and "apt=" not in rest:
            line = f"{line};{BITRATES}"
        yield line
        if video and line.startswith("a=rtpmap:") and payload_type not in has_fmtp and "rtx/" not in rest.lower():
            yield f"a=fmtp:{payload_type} {BITRATES}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
