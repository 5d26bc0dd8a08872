"""Is this SDP offer one that we can take whole? Decided before any work is done for it.

Pure text in, checked text out; every offer gets one of three verdicts: usable, malformed, unusable. Does not know HTTP
or sessions.
"""

import ipaddress
import re
from dataclasses import dataclass

from aiortc.codecs import CODECS, is_rtx
from aiortc.rtcpeerconnection import find_common_codecs
from aiortc.sdp import DIRECTIONS, MediaDescription, SessionDescription, candidate_from_sdp

MAX_CANDIDATES = 16  # of a session; each is checked against each of our addresses, with several packets
MAX_OFFERED_CANDIDATES = 64  # browsers with many addresses name more than are used; beyond this it is no browser
_MAX_SECTIONS = 8
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")  # Linux sends some of it to itself
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last four bytes are IPv4
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_FINGERPRINTS = frozenset({"sha-256", "sha-384", "sha-512"})
# What aiortc's parser raises on malformed text; it has no error type of its own.
PARSE_ERRORS = (AssertionError, AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError)


class OfferMalformed(Exception):
    """The text is not a WebRTC offer."""


class OfferUnusable(Exception):
    """A WebRTC offer, but not one that this server can take."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A checked offer. `sdp` is what aiortc is given; `mid` names the section that carries the transport."""

    sdp: str
    mid: str
    ice_ufrag: str
    ice_pwd: str
    num_candidates: int


def check_offer(text: str, client: str | None = None) -> Offer:
    """Raises OfferMalformed or OfferUnusable, each with a sentence for the person who publishes.

    `client`: the address that the offer came from, see `usable_candidate`.
    """
    if not text.startswith("v=0"):
        raise OfferMalformed("the body is not SDP (it must begin with v=0)")
    sdp, num_candidates = _normalised(text, client)
    try:
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
            _check_direction(media)
            _check_codecs(media)
    ice = parsed.media[0].ice
    return Offer(sdp, mid, ice.usernameFragment or "", ice.password or "", num_candidates)


def _normalised(text: str, client: str | None) -> tuple[str, int]:
    """The same offer with what aiortc needs spelled out: a direction in each section, only addresses it can use."""
    session_direction = "sendrecv"  # RFC 8866: what an absent attribute means
    sections: list[list[str]] = [[]]
    num_offered = num_candidates = 0
    for line in text.splitlines():
        if line.startswith("m="):
            sections.append([])
        if line.startswith("a=candidate:"):
            num_offered += 1
            if not usable_candidate(line.removeprefix("a=candidate:"), client) or num_candidates >= MAX_CANDIDATES:
                continue
            num_candidates += 1
        if len(sections) == 1 and line[2:].strip() in DIRECTIONS:
            session_direction = line[2:].strip()
        if line.strip():
            sections[-1].append(line.rstrip())
    check_number(num_offered)
    for section in sections[1:]:
        if not any(line.startswith("a=") and line[2:] in DIRECTIONS for line in section):
            section.append(f"a={session_direction}")
    return "\r\n".join(line for section in sections for line in section) + "\r\n", num_candidates


def check_number(num_offered: int) -> None:
    """Raises OfferMalformed for more candidates than any machine has addresses."""
    if num_offered > MAX_OFFERED_CANDIDATES:
        raise OfferMalformed(f"{num_offered} ICE candidates; send at most {MAX_OFFERED_CANDIDATES}")


def usable_candidate(value: str, client: str | None = None) -> bool:
    """Whether connectivity checks may be sent to this candidate. Raises OfferMalformed.

    False for what cannot lead to the publisher: TCP, which we do not speak, host names (RFC 8839 lets us ignore them;
    those of mDNS are resolved), and addresses that reach something else than the machine the offer came from: multicast
    and unassigned ones, those of this machine itself unless `client` is, those of one link unless `client` is on it.
    """
    try:
        candidate = candidate_from_sdp(value)
    except PARSE_ERRORS:
        raise OfferMalformed(f"malformed ICE candidate: {value[:100]!r}") from None
    if not (0 < candidate.port < 65536 and 0 < candidate.component <= 256):
        raise OfferMalformed(f"ICE candidate out of range: {value[:100]!r}")
    if candidate.protocol.lower() != "udp" or candidate.component != 1:
        return False
    if re.fullmatch(r"[0-9a-zA-Z-]{1,63}\.local", candidate.ip):
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


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """None if it is none. An IPv4 address inside an IPv6 one counts as what the packets reach."""
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
        raise OfferUnusable("several sections for data channels; one carries all of them")
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
        raise OfferUnusable("no a=fingerprint of a kind we can check; send sha-256")
    if not media.rtcp_mux and media.kind != "application":
        raise OfferUnusable("a=rtcp-mux is required")


def _check_data(media: MediaDescription) -> None:
    if media.profile not in ("UDP/DTLS/SCTP", "TCP/DTLS/SCTP") or media.fmt != ["webrtc-datachannel"]:
        raise OfferUnusable("an application section that is no data channel; offer UDP/DTLS/SCTP webrtc-datachannel")
    if media.sctp_port is None or not 0 < media.sctp_port < 65536:
        raise OfferMalformed("a=sctp-port of the data channel is missing or out of range")
    if media.sctpCapabilities is not None and media.sctpCapabilities.maxMessageSize < 0:
        raise OfferMalformed("a=max-message-size of the data channel is below 0")


def _check_direction(media: MediaDescription) -> None:
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
        wanted = "VP8 or H.264 (baseline, packetization-mode=1)" if media.kind == "video" else "Opus"
        raise OfferUnusable(f"no usable {media.kind} codec among {', '.join(offered) or 'none'}; offer {wanted}")
