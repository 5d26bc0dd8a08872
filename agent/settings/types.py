"""Types that settings are made of: their base class, and types for names, addresses, paths, zones and masks.

pydantic calls a `check_` function for each value of such a type. Unless its docstring says otherwise, it returns a
valid value unchanged and raises ValueError for any other, with a message that says what to write instead.
"""

import ipaddress
import json
import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, SecretStr

from agent.times import TimeError, load_zone
from streaming.redact import HINT, has_host

# Half of the metadata that the memory can store with a frame. The other half is for what publishers send.
MAX_METADATA_BYTES = 32_768

_SLUG = re.compile(r"[a-z0-9_-]{1,64}")
_DAY_RANGE = re.compile(r"(\d{2}):([0-5]\d)-(\d{2}):([0-5]\d)", re.ASCII)
_RESERVED_SLUGS = frozenset({"ask", "answer", "status"})
_SCOPE = re.compile(r"ask|admin|publish:(\*|[a-z0-9_-]{1,64})")
_URL_SCHEMES = frozenset({"rtsp", "rtsps", "http", "https", "file"})


def check_slug(name: str) -> str:
    """Check the name of a camera, rule, webhook or token. Such a name can be part of a URL and of an MQTT topic."""
    if not _SLUG.fullmatch(name):
        raise ValueError(f'"{name}" cannot be a name: use 1 to 64 of a-z, 0-9, "_" and "-"')
    if name in _RESERVED_SLUGS:
        raise ValueError(f'"{name}" is taken by the MQTT topics: choose another name')
    return name


def check_alias(name: str) -> str:
    """Check another name of a camera, as people write it in a question. Return it without spaces around it."""
    if not (re.search(r"\w", name) and name.isprintable() and len(name) <= 64):
        raise ValueError(f'"{name[:64]}" cannot be an alias: use 1 to 64 printable characters with at least one letter')
    return name.strip()


def minutes_of(text: str) -> tuple[int, int]:
    """Return the beginning and end of "22:00-06:00" in minutes after midnight. Raises ValueError."""
    found = _DAY_RANGE.fullmatch(text)
    if found is None:
        raise ValueError(f'"{text[:40]}" is no part of a day: write it as "22:00-06:00"')
    hour, minute, end_hour, end_minute = map(int, found.groups())
    start, end = 60 * hour + minute, 60 * end_hour + end_minute
    if max(start, end) > 1440 or start in (1440, end):
        raise ValueError(f'"{text}" is no part of a day: times go from 00:00 to 24:00, and the two must differ')
    return start, end


def check_day_range(text: str) -> str:
    """Check a part of a day, such as "22:00-06:00"."""
    minutes_of(text)
    return text


def check_scope(scope: str) -> str:
    """Check a scope of a token: "ask", "admin", "publish:*" or "publish:<camera>"."""
    if not _SCOPE.fullmatch(scope):
        raise ValueError(f'"{scope}" is not a scope: use "ask", "admin", "publish:*" or "publish:<camera>"')
    return scope


def is_loopback(host: str) -> bool:
    """Return True when `host` is a loopback address, to which only this machine can connect."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_zone(name: str) -> str:
    """Check the name of an IANA time zone, such as "Europe/Berlin"."""
    try:
        return load_zone(name).key
    except TimeError as error:
        raise ValueError(str(error)) from None


def check_source(url: str) -> str:
    """Check the address of a camera or the path of a video."""
    scheme, colon, _ = url.partition("://")
    if colon and scheme.lower() not in _URL_SCHEMES:
        raise ValueError(f'cannot open "{scheme[:20]}://": use rtsp://, http://, a file path or webcam:0')
    if colon and scheme.lower() != "file":
        if any(character.isspace() or not character.isprintable() for character in url):
            raise ValueError("an address has no spaces: write %20 for a space in a password")
        if not has_host(url):
            raise ValueError(f"this address has no valid host: {HINT}")
    return url


def address_parts(url: str, schemes: Collection[str] = ("http", "https")) -> SplitResult | None:
    """Return the parts of an address; None unless it has one of `schemes` and a host. A given port must be valid."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if usable else None


def check_base_url(url: str) -> str:
    """Check the base address of a server. Return it without slashes at its end, so that paths can be appended."""
    if not address_parts(url) or not re.fullmatch(r"https?://[\w.\-\[\]:]+(/[\w./~-]*)?", url, re.ASCII):
        advice = "without user or query (set the key with api_key or api_key_file)"
        raise ValueError(f"must be an address such as http://127.0.0.1:11434/v1, {advice}")
    return url.rstrip("/")


def check_network(text: str) -> str:
    """Check an IP address or network."""
    try:
        ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(f'"{text}" is not an address or a network such as 127.0.0.1 or 10.0.0.0/8') from None
    return text


def check_address(text: str) -> str:
    """Check an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f'"{text}" is not an IP address such as 203.0.113.9 or 2001:db8::9') from None
    return text


def check_ports(value: object) -> str:
    """Return a port or a range of ports as text. It may be given as a number too."""
    first, _, last = str(value).partition("-")
    if not re.fullmatch(r"\d{1,5}(-\d{1,5})?", str(value)) or not 0 < int(first) <= int(last or first) < 65_536:
        raise ValueError(f'"{value}" is not a port such as 8189 or a range such as 50000-50099')
    return str(value)


def check_link(url: str) -> str:
    """Check an address that the web page links to."""
    parts = address_parts(url)
    if parts is None or parts.username is not None:
        raise ValueError("must be an address such as https://recorder.example/gate without user or password")
    return url


def check_origin(origin: str) -> str:
    """Check an origin in the form that browsers send ("https://panel.example"), or "*" for every origin."""
    if origin != "*" and not re.fullmatch(r"https?://[a-z0-9.\-\[\]:]+", origin):
        raise ValueError(f'"{origin}" is not an origin: write it as https://panel.example or http://localhost:3000')
    return origin


def check_token(token: SecretStr) -> SecretStr:
    """Check the secret of a token: at least 16 printable characters, no spaces."""
    if not re.fullmatch(r"[\x21-\x7e]{16,}", token.get_secret_value()):
        raise ValueError("a token has at least 16 printable characters and no spaces")
    return token


def check_metadata(metadata: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Check metadata that is stored with every frame of a camera: JSON of at most MAX_METADATA_BYTES."""
    try:
        json.dumps(metadata, ensure_ascii=False).encode()  # a lone surrogate has no UTF-8
        num_bytes = len(json.dumps(metadata, allow_nan=False))
    except (ValueError, RecursionError):
        raise ValueError(
            "metadata is plain JSON: no NaN, no infinity, no lone surrogates, not nested too deeply"
        ) from None
    if num_bytes > MAX_METADATA_BYTES:
        raise ValueError(
            f"metadata has {num_bytes} bytes as JSON; at most {MAX_METADATA_BYTES} are kept with each frame"
        )
    return metadata


Point = tuple[float, float]
MIN_AREA = 1e-6  # as a share of the picture; a smaller polygon is a line or a mistake


def check_polygon(points: tuple[Point, ...]) -> tuple[Point, ...]:
    """Check a privacy mask: a polygon of points (x, y), in shares (0 to 1) of the picture's width and height."""
    if not 3 <= len(points) <= 100:
        raise ValueError(f"a mask is a polygon of 3 to 100 points [x, y], not of {len(points)}")
    for x, y in points:
        if not (math.isfinite(x) and math.isfinite(y) and 0 <= x <= 1 and 0 <= y <= 1):
            raise ValueError(
                f"[{x:g}, {y:g}] is outside the picture: x and y go from 0 (left, top) to 1 (right, bottom), not in pixels"
            )
    if area(points) < MIN_AREA:
        raise ValueError("the points of a mask must span an area: these lie on one line")
    return points


def area(points: tuple[Point, ...]) -> float:
    """Return the area of a polygon (shoelace formula), in squared units of the points: 1 for the unit square."""
    following = (*points[1:], points[0])
    return abs(sum(x * v - u * y for (x, y), (u, v) in zip(points, following, strict=True))) / 2


_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h|d|w)?")
_UNITS_S = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}


def check_span(value: object) -> object:
    """Return the seconds of a duration such as "7d", "36h", "90min" or 600. Raises ValueError for any other text."""
    if not isinstance(value, str):
        return value
    found = _SPAN.fullmatch(value.strip())
    if found is None:
        raise ValueError("must be a duration such as 7d, 36h or 90min, or a number of seconds")
    return float(found[1]) * _UNITS_S[found[2] or "s"]


Span = Annotated[float, BeforeValidator(check_span)]
Slug = Annotated[str, AfterValidator(check_slug)]
Alias = Annotated[str, AfterValidator(check_alias)]
DayRange = Annotated[str, AfterValidator(check_day_range)]
Scope = Annotated[str, AfterValidator(check_scope)]
Origin = Annotated[str, AfterValidator(check_origin)]
Zone = Annotated[str, AfterValidator(check_zone)]
SourceUrl = Annotated[str, Field(min_length=1), AfterValidator(check_source)]
BaseUrl = Annotated[str, AfterValidator(check_base_url)]
Network = Annotated[str, AfterValidator(check_network)]
Address = Annotated[str, AfterValidator(check_address)]
Ports = Annotated[str, BeforeValidator(check_ports)]
Link = Annotated[str, AfterValidator(check_link)]
Token = Annotated[SecretStr, AfterValidator(check_token)]
Metadata = Annotated[dict[str, JsonValue], AfterValidator(check_metadata)]
Polygon = Annotated[tuple[Point, ...], AfterValidator(check_polygon)]
UserPath = Annotated[Path, AfterValidator(Path.expanduser)]


class Part(BaseModel):
    """Base class of all settings. Its instances are immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())
