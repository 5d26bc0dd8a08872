"""Accept what aiortc refuses in offers although it can be received or declined. Text in, text out.

`for_aiortc` rewrites an offer, and `as_offered` rewrites aiortc's answer to it, so that the answer names what was
offered:

- All H.264 profiles, with and without packetization-mode=1. aiortc takes only the baseline profile with it, but its
  decoder and its depacketizer take all.
- Sound of any codec, which is declined. aiortc refuses offers with sound that it cannot decode.
- Retransmission (RTX) is left out where the offer does not say to which stream it belongs, as aiortc could not tell
  either. Lost packets are then repeated in the stream itself.
- The layers of a simulcast (RFC 8853): the one that is named as the largest, else all. Without an answer to it, browsers
  send the first layer, often the smallest.
"""

import re

_H264_KNOWN = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f"
_CODEC_LINES = ("a=rtpmap:", "a=fmtp:", "a=rtcp-fb:")
_FULL = ("f", "full", "high", "hi")  # usual names of the largest layer; others say nothing about sizes
_LAYER_URI = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id"


def for_aiortc(offer: str) -> str:
    """Return the offer in terms that aiortc knows. What it can never receive stays as it is."""
    head, *sections = _sections(offer)
    return _joined([head, *(_known(section) for section in sections)])


def as_offered(answer: str, offer: str) -> str:
    """Return the answer that aiortc gave to `for_aiortc(offer)` in the terms of `offer`."""
    head, *sections = _sections(answer)
    offered = _sections(offer)[1:]
    return _joined([head, *(_restored(mine, theirs) for mine, theirs in zip(sections, offered, strict=True))])


def _sections(text: str) -> list[list[str]]:
    """Return the lines of the session and of each media section."""
    sections: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("m="):
            sections.append([])
        if line.strip():
            sections[-1].append(line.rstrip())
    return sections


def _joined(sections: list[list[str]]) -> str:
    return "".join(f"{line}\r\n" for section in sections for line in section)


def _kind(section: list[str]) -> str:
    return section[0][2:].split(" ", 1)[0]


def _payload_type(line: str) -> str:
    """Return the payload type of an `a=rtpmap`, `a=fmtp` or `a=rtcp-fb` line, "" for other lines."""
    return line.partition(":")[2].split(" ", 1)[0] if line.startswith(_CODEC_LINES) else ""


def _named(section: list[str], codec: str) -> set[str]:
    """Return the payload types of a codec."""
    pattern = re.compile(rf"a=rtpmap:\d+ {codec}/", re.IGNORECASE)
    return {_payload_type(line) for line in section if pattern.match(line)}


def _h264(section: list[str]) -> dict[str, str]:
    """Return the format parameters of each acceptable H.264 payload type."""
    parameters = dict.fromkeys(sorted(_named(section, "H264")), "")
    for line in section:
        if line.startswith("a=fmtp:") and _payload_type(line) in parameters:
            parameters[_payload_type(line)] = line.partition(" ")[2]
    return {each: found for each, found in parameters.items() if _acceptable(found)}


def _acceptable(parameters: str) -> bool:
    mode = re.search(r"packetization-mode=([^;]*)", parameters)
    profile = re.search(r"profile-level-id=([^;]*)", parameters)
    return (mode is None or mode[1].strip() in ("0", "1")) and (
        profile is None or re.fullmatch("[0-9a-fA-F]{6}", profile[1].strip()) is not None
    )


def _known(section: list[str]) -> list[str]:
    if _kind(section) == "audio":
        transport = section[0].split(" ")[:3]
        others = [line for line in section[1:] if not line.startswith(_CODEC_LINES)]
        return [" ".join([*transport, "96"]), *others, "a=rtpmap:96 opus/48000/2"]
    if _kind(section) != "video":
        return section
    h264 = _h264(section)
    dropped = set() if any(line.startswith("a=ssrc-group:FID") for line in section) else _named(section, "rtx")
    start, formats = section[0].split(" ")[:3], section[0].split(" ")[3:]
    known = [" ".join([*start, *(each for each in formats if each not in dropped)])]
    known += [f"a=fmtp:{each} {_H264_KNOWN}" for each in h264]
    for line in section[1:]:
        replaced = line.startswith("a=fmtp:") and _payload_type(line) in h264
        if not replaced and _payload_type(line) not in dropped:
            known.append(line)
    return known


def _restored(section: list[str], offered: list[str]) -> list[str]:
    if _kind(section) == "audio":
        first = (offered[0].split(" ") + ["0"] * 4)[3]
        names = [line for line in offered if line.startswith("a=rtpmap:") and _payload_type(line) == first]
        others = [line for line in section[1:] if not line.startswith(_CODEC_LINES)]
        return [" ".join([*section[0].split(" ")[:3], first]), *others, *names]
    if _kind(section) != "video":
        return section
    h264 = _h264(offered)
    restored = []
    for line in section:
        parameters = h264.get(_payload_type(line)) if line.startswith("a=fmtp:") else None
        if parameters is not None:
            wanted = re.findall(r"(?:profile-level-id|packetization-mode)=[^;]*", parameters)
            line = f"a=fmtp:{_payload_type(line)} " + ";".join(["level-asymmetry-allowed=1", *wanted])
        restored.append(line)
    return restored + _layers(offered)


def _layers(offered: list[str]) -> list[str]:
    """Return the lines of the answer that accept layers of a simulcast, [] if none is offered."""
    simulcast = next((line for line in offered if line.startswith("a=simulcast:")), "")
    sent = re.search(r"\bsend ([^ ]+)", simulcast)
    if sent is None:
        return []
    names = re.findall("[0-9a-zA-Z_-]+", sent[1])
    names = [name for name in names if name in _FULL] or names
    extensions = [line for line in offered if line.startswith("a=extmap:") and line.endswith(_LAYER_URI)]
    return [*extensions, *(f"a=rid:{name} recv" for name in names), f"a=simulcast:recv {';'.join(names)}"]
