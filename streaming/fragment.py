"""Trickled ICE candidates: `application/trickle-ice-sdpfrag` (RFC 8840). Pure; does not know sessions."""

from dataclasses import dataclass

from streaming.sdp import OfferMalformed, check_number, usable_candidate


@dataclass(frozen=True, slots=True)
class Fragment:
    """What a fragment says. `candidates` are values after `candidate:`, only those with usable addresses."""

    ice_ufrag: str | None
    ice_pwd: str | None
    candidates: tuple[str, ...]
    ended: bool

    def restarts(self, ice_ufrag: str, ice_pwd: str) -> bool:
        """True if it carries other credentials than the session's: that asks for an ICE restart (RFC 9725)."""
        return self.ice_ufrag not in (None, ice_ufrag) or self.ice_pwd not in (None, ice_pwd)


def parse_fragment(text: str, client: str | None = None) -> Fragment:
    """Raises OfferMalformed. Sections are not told apart: all of them share one transport (checked in the offer).

    `client`: the address that it came from, see `usable_candidate`.
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
    return Fragment(values.get("ice-ufrag"), values.get("ice-pwd"), tuple(candidates), ended)
