"""Settings of MQTT: which broker, as whom, under which topics, and what is offered there.

Nothing is read or opened here but the password file, when it is asked for.
"""

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, SecretStr, model_validator

from agent.settings.types import Part, UserPath, is_loopback

EMBEDDED = "embedded"
_DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}
_TOPIC = re.compile(r"[^/+#$\0][^+#\0]{0,127}")


def check_broker(url: str) -> str:
    """`url` itself, when it names a broker. Raises ValueError with what to do."""
    if url == EMBEDDED:
        return url
    advice = "use mqtt://host:1883, mqtts://host:8883 or embedded"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in _DEFAULT_PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"this is not the address of a broker: {advice}")
    if parts.username is not None or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"only host and port belong into the address ({advice}); give user and password beside it")
    return url


def check_prefix(prefix: str) -> str:
    """`prefix` itself, when topics can begin with it: "vilamp" or "home/vilamp"."""
    if not _TOPIC.fullmatch(prefix) or prefix.endswith("/") or "//" in prefix:
        raise ValueError(f'"{prefix}" cannot begin a topic: leave out "+", "#", "$" and slashes at the ends')
    return prefix


class MqttSettings(Part):
    """The broker and what is published there. Off without `url`."""

    url: Annotated[str, AfterValidator(check_broker)] | None = Field(
        default=None,
        description="mqtt://host:1883, mqtts://host:8883, or embedded: a broker in this process; null: off",
    )
    prefix: Annotated[str, AfterValidator(check_prefix)] = Field(
        default="vilamp", description="all topics begin with it; give every agent at one broker its own"
    )
    version: Annotated[Literal["5", "3.1.1"], BeforeValidator(str)] = Field(
        default="5", description="MQTT version spoken with the broker; response topics need 5"
    )
    user: str | None = Field(default=None, min_length=1, description="name to log in with")
    password: SecretStr | None = Field(default=None, description="its password, best given as VILAMP_MQTT__PASSWORD")
    password_file: UserPath | None = Field(
        default=None, description="or a file that holds it, read at every connection"
    )
    client_id: str | None = Field(
        default=None, min_length=1, max_length=128, description="null: a new one at every start"
    )
    ca: UserPath | None = Field(
        default=None, description="PEM file of the authority that signed the broker's certificate"
    )
    cert: UserPath | None = Field(default=None, description="PEM file with a client certificate ...")
    key: UserPath | None = Field(default=None, description="... and its private key")
    keepalive_s: int = Field(default=20, ge=5, le=3600, description="a silent connection is checked so often")
    snapshots: bool = Field(default=True, description="publish the picture of an alert, retained")
    max_snapshot_bytes: ByteSize = Field(
        default=ByteSize(256 * 2**10), ge=2**12, le=2**24, description="larger pictures are scaled down"
    )
    stats_interval_s: float = Field(
        default=30.0, ge=1, le=86_400, description="a camera's memory topic is published at most so often"
    )
    discovery: bool = Field(default=True, description="announce cameras and rules to Home Assistant")
    discovery_prefix: Annotated[str, AfterValidator(check_prefix)] = Field(
        default="homeassistant", description="where Home Assistant listens for announcements"
    )
    allow_ask: bool = Field(
        default=False, description="answer questions on <prefix>/ask, from anyone whom the broker lets publish there"
    )
    embedded_host: str = Field(default="127.0.0.1", min_length=1, description="where the embedded broker listens")
    embedded_port: int = Field(default=1883, ge=0, le=65_535, description="its TCP port; 0: any free one")

    @model_validator(mode="after")
    def _is_whole(self) -> "MqttSettings":
        if self.password is not None and self.password_file is not None:
            raise ValueError("give either password or password_file, not both")
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key come together: give both files")
        if (self.ca or self.cert) and not (self.url or "").startswith("mqtts:"):
            raise ValueError("ca, cert and key are for an address that begins with mqtts://")
        if self.has_password and self.user is None:
            raise ValueError("a password needs a user")
        if self.url == EMBEDDED and not self.has_password and not is_loopback(self.embedded_host):
            raise ValueError(
                f'the embedded broker would be open to everyone who reaches "{self.embedded_host}": '
                "set user and password, or leave embedded_host at 127.0.0.1"
            )
        return self

    @property
    def has_password(self) -> bool:
        """True when a password is configured, either way."""
        return self.password is not None or self.password_file is not None

    def secret(self) -> str | None:
        """The password, from the settings or its file. Raises OSError."""
        if self.password_file is not None:
            return Path(self.password_file).read_text(encoding="utf-8").strip()
        return None if self.password is None else self.password.get_secret_value()

    def address(self) -> tuple[str, int]:
        """Host and port of a broker that is not embedded."""
        parts = urlsplit(self.url or "")
        return parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]

    @property
    def tls(self) -> bool:
        """True when the connection is encrypted."""
        return (self.url or "").startswith("mqtts:")
