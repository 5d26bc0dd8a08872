"""Settings of MQTT: the broker, the login, the topics and what is published."""

import re
import ssl
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from agent.settings.types import Part, UserPath, address_parts, is_loopback

EMBEDDED = "embedded"
_DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}
_TOPIC = re.compile(r"[^/+#$\0][^+#\0]{0,127}")


def check_broker(url: str) -> str:
    """Return `url` unchanged if it is the address of an MQTT broker or "embedded". Raises ValueError."""
    if url == EMBEDDED:
        return url
    advice = "use mqtt://host:1883, mqtts://host:8883 or embedded"
    parts = address_parts(url, _DEFAULT_PORTS)
    if parts is None:
        raise ValueError(f"this is not the address of a broker: {advice}")
    if parts.username is not None or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"the address has only host and port ({advice}); set user and password separately")
    return url


def check_prefix(prefix: str) -> str:
    """Return `prefix` unchanged if MQTT topics can begin with it, as with "home/vilamp". Raises ValueError."""
    if not _TOPIC.fullmatch(prefix) or prefix.endswith("/") or "//" in prefix:
        raise ValueError(f'"{prefix}" cannot begin a topic: leave out "+", "#", "$" and slashes at the ends')
    return prefix


class MqttSettings(Part):
    """The MQTT broker, and what is published to it. MQTT is off when `url` is None."""

    url: Annotated[str, AfterValidator(check_broker)] | None = Field(
        default=None, description="mqtt://host:1883, mqtts://host:8883 or `embedded`; null: off"
    )
    prefix: Annotated[str, AfterValidator(check_prefix)] = Field(
        default="vilamp", description="first part of all topics; unique per agent"
    )
    version: Annotated[Literal["5", "3.1.1"], BeforeValidator(str)] = Field(
        default="5", description="protocol version; response topics need 5"
    )
    user: str | None = Field(default=None, min_length=1, description="login name")
    password: SecretStr | None = Field(default=None, description="login password")
    password_file: UserPath | None = Field(default=None, description="file with it, read at every connection")
    client_id: str | None = Field(default=None, min_length=1, max_length=128, description="null: new at every start")
    ca: UserPath | None = Field(default=None, description="PEM file of the broker's certificate authority")
    cert: UserPath | None = Field(default=None, description="PEM file of a client certificate")
    key: UserPath | None = Field(default=None, description="PEM file of its private key")
    snapshots: bool = Field(default=True, description="publish pictures of alerts, retained")
    discovery: bool = Field(default=True, description="announce cameras and rules to Home Assistant")
    discovery_prefix: Annotated[str, AfterValidator(check_prefix)] = Field(
        default="homeassistant", description="Home Assistant's discovery topic"
    )
    allow_ask: bool = Field(default=False, description="answer questions from anyone who may publish to `<prefix>/ask`")
    embedded_host: str = Field(
        default="127.0.0.1", min_length=1, description="listening address of the embedded broker"
    )
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
        """Whether a password or a password file is configured."""
        return self.password is not None or self.password_file is not None

    def secret(self) -> str | None:
        """Return the password, read from its file if one is configured; None without a password. Raises OSError."""
        if self.password_file is not None:
            return Path(self.password_file).read_text(encoding="utf-8").strip()
        return None if self.password is None else self.password.get_secret_value()

    def address(self) -> tuple[str, int]:
        """Return the host and the port in `url`. Must not be called for the embedded broker."""
        parts = urlsplit(self.url or "")
        return parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]

    @property
    def tls(self) -> bool:
        """Whether the connection to the broker is encrypted."""
        return (self.url or "").startswith("mqtts:")

    def tls_context(self) -> ssl.SSLContext | None:
        """Return the TLS context; None without TLS. Raises OSError (ssl.SSLError) for files that cannot be read."""
        if not self.tls:
            return None
        context = ssl.create_default_context(cafile=None if self.ca is None else str(self.ca))
        if self.cert is not None:
            context.load_cert_chain(str(self.cert), None if self.key is None else str(self.key))
        return context
