"""What settings classes are made of: their base, names, scopes, addresses, paths and zones, each with its check.

Every part of the agent may define settings with these; `agent/settings/settings.py` joins them. Nothing is read or opened here.
"""

import ipaddress
import json
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, JsonValue, SecretStr

from agent.times import TimeError, load_zone
from streaming.redact import HINT, has_host

MAX_METADATA_BYTES = 32_768  # half of what memory keeps with a frame; the rest is for what publishers tell

_SLUG = re.compile(r"[a-z0-9_-]{1,64}")
_RESERVED_SLUGS = frozenset({"ask", "answer", "status"})
_SCOPE = re.compile(r"ask|admin|publish:(\*|[a-z0-9_-]{1,64})")
_URL_SCHEMES = frozenset({"rtsp", "rtsps", "http", "https", "file"})


def check_slug(name: str) -> str:
    """`name` itself, when it may name a camera or a rule. Raises ValueError with what to do."""
    if not _SLUG.fullmatch(name):
        raise ValueError(f'"{name}" cannot be a name: use 1 to 64 of a-z, 0-9, "_" and "-"')
    if name in _RESERVED_SLUGS:
        raise ValueError(f'"{name}" is taken by the MQTT topics: choose another name')
    return name


def check_scope(scope: str) -> str:
    """`scope` itself, when a token can carry it. Raises ValueError with what to do."""
    if not _SCOPE.fullmatch(scope):
        raise ValueError(f'"{scope}" is not a scope: use "ask", "admin", "publish:*" or "publish:<camera>"')
    return scope


def is_loopback(host: str) -> bool:
    """True when `host` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_zone(name: str) -> str:
    try:
        return load_zone(name).key
    except TimeError as error:
        raise ValueError(str(error)) from None


def check_source(url: str) -> str:
    scheme, colon, _ = url.partition("://")
    if colon and scheme.lower() not in _URL_SCHEMES:
        raise ValueError(f'cannot open "{scheme[:20]}://": use rtsp://, http://, a file path or webcam:0')
    if colon and scheme.lower() != "file":
        if any(character.isspace() or not character.isprintable() for character in url):
            raise ValueError("an address holds no spaces: write %20 for one in a password")
        if not has_host(url):
            raise ValueError(f"this address has no host that can be read: {HINT}")
    return url


def check_base_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        written = re.fullmatch(r"https?://[\w.\-\[\]:]+(/[\w./~-]*)?", url, re.ASCII)
        usable = written is not None and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        advice = "without user or query (a key belongs into api_key or api_key_file)"
        raise ValueError(f"must be an address such as http://127.0.0.1:11434/v1, {advice}")
    return url.rstrip("/")


def check_network(text: str) -> str:
    """An IP address or a network of them. Raises ValueError."""
    try:
        ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(f'"{text}" must be an address or a network, such as 127.0.0.1 or 10.0.0.0/8') from None
    return text


def check_link(url: str) -> str:
    """`url` itself, when a page may link to it. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError("must be an address such as https://recorder.example/gate, without user or password")
    return url


def check_origin(origin: str) -> str:
    """`origin` itself as browsers send it, or "*". Raises ValueError."""
    if origin != "*" and not re.fullmatch(r"https?://[a-z0-9.\-\[\]:]+", origin):
        raise ValueError(f'"{origin}" is not an origin: write it as https://panel.example or http://localhost:3000')
    return origin


def check_token(token: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x21-\x7e]{16,}", token.get_secret_value()):
        raise ValueError("a token is at least 16 printable characters without spaces: leave it out to have one made")
    return token


def check_metadata(metadata: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """It itself, when it can be kept beside every frame, with what a publisher tells. Raises ValueError."""
    try:
        json.dumps(metadata, ensure_ascii=False).encode()  # half a character cannot be sent to anybody
        num_bytes = len(json.dumps(metadata, allow_nan=False))
    except (ValueError, RecursionError):
        raise ValueError(
            "metadata is plain JSON: no NaN, no infinity, no half characters, not nested endlessly"
        ) from None
    if num_bytes > MAX_METADATA_BYTES:
        raise ValueError(
            f"metadata has {num_bytes} bytes as JSON; at most {MAX_METADATA_BYTES} are kept with each frame"
        )
    return metadata


def expand(path: Path) -> Path:
    return path.expanduser()


Slug = Annotated[str, AfterValidator(check_slug)]
Scope = Annotated[str, AfterValidator(check_scope)]
Origin = Annotated[str, AfterValidator(check_origin)]
Zone = Annotated[str, AfterValidator(check_zone)]
Metadata = Annotated[dict[str, JsonValue], AfterValidator(check_metadata)]
UserPath = Annotated[Path, AfterValidator(expand)]


class Part(BaseModel):
    """Base of every settings class: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())
