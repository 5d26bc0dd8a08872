"""What the publisher is told beside the plain answer: bitrates for Chrome, ICE servers for everybody. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IceServer:
    """One STUN or TURN server as clients are told of it (TURN: with user name and credential)."""

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
        """The value of a `Link` header (RFC 9725 section 4.6)."""
        parts = [f"<{self.url}>", 'rel="ice-server"']
        if self.username is not None and self.credential is not None:
            parts += [f"username={_quoted(self.username)}", f"credential={_quoted(self.credential)}"]
            parts.append('credential-type="password"')
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Bitrates:
    """Kilobits a second that Chrome is told to begin and stay with: without them it begins near 400 at 640x360."""

    min_kbps: int = 1000
    start_kbps: int = 2500
    max_kbps: int = 4000

    def __post_init__(self) -> None:
        if not 0 < self.min_kbps <= self.start_kbps <= self.max_kbps:
            raise ValueError(f"bitrates must be 0 < min <= start <= max, not {self}")

    def parameters(self) -> str:
        return (
            f"x-google-min-bitrate={self.min_kbps};x-google-start-bitrate={self.start_kbps};"
            f"x-google-max-bitrate={self.max_kbps}"
        )


def with_bitrates(answer_sdp: str, bitrates: Bitrates) -> str:
    """The answer with the bitrates in the format parameters of every video codec (not of retransmissions)."""
    return "".join(f"{line}\r\n" for line in _with_bitrates(answer_sdp.splitlines(), bitrates.parameters()))


def _with_bitrates(lines: list[str], parameters: str) -> Iterator[str]:
    has_fmtp = {line[7:].split(" ", 1)[0] for line in lines if line.startswith("a=fmtp:")}
    video = False
    for line in lines:
        if line.startswith("m="):
            video = line.startswith("m=video")
        payload_type, _, rest = line.partition(":")[2].partition(" ")
        if video and line.startswith("a=fmtp:") and "apt=" not in rest:
            line = f"{line};{parameters}"
        yield line
        if video and line.startswith("a=rtpmap:") and payload_type not in has_fmtp and "rtx/" not in rest.lower():
            yield f"a=fmtp:{payload_type} {parameters}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
