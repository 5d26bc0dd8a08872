"""Defines the configuration: every setting with its default, its limits and its meaning.

`agent/settings/source.py` reads the YAML file, the environment and the command line into one immutable `Settings`. A
key that is not defined here is an error. Importing this module opens no file, camera or model.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import ByteSize, Field, SecretStr, model_validator

from agent.settings.mqtt import MqttSettings
from agent.settings.rules import AlertsSettings, RuleSettings
from agent.settings.types import (
    Address,
    Alias,
    BaseUrl,
    DayRange,
    Link,
    Metadata,
    Network,
    Origin,
    Part,
    Polygon,
    Ports,
    Scope,
    Slug,
    SourceUrl,
    Span,
    Token,
    UserPath,
    Zone,
    is_loopback,
    minutes_of,
)
from agent.settings.webhooks import WebhookSettings
from agent.times import PartsOfDay, local_zone_name
from model.hub import RECOMMENDED
from streaming.redact import redact


class CameraSettings(Part):
    """One camera: where its frames come from, how they are stored and how long they are kept."""

    url: SourceUrl | None = Field(
        default=None, description="RTSP or HTTP address, video file or webcam:0; null: it publishes over WebRTC"
    )
    username: str | None = Field(default=None, min_length=1, description="user of an RTSP or HTTP camera")
    password: SecretStr | None = Field(default=None, description="its password, as it is: nothing is escaped")
    transport: Literal["auto", "tcp", "udp"] = Field(
        default="auto", description="of RTSP: `tcp`, `udp`, or `auto` for TCP and then UDP"
    )
    other_hosts: bool = Field(default=False, description="an HTTP camera may redirect to other hosts and ports")
    enabled: bool = Field(default=True, description="false: takes no frames; stored frames stay")
    rate_hz: float = Field(default=1.0, gt=0, le=30, description="frames kept per second")
    timezone: Zone = Field(default_factory=local_zone_name, description="IANA time zone of the camera")
    aliases: tuple[Alias, ...] = Field(
        default=(), max_length=32, description="further names in questions, such as `[front door, Haustür]`"
    )
    max_width: int = Field(
        default=1280, ge=96, le=7680, description="longer side of a stored picture in pixels, at most"
    )
    keep: Span | None = Field(default=None, gt=0, description="age of a frame, such as 7d or 36h; null: no limit")
    max_frames: int | None = Field(
        default=None, ge=1, le=10_000_000, description="stored frames; null: a share of the machine's memory"
    )
    hot_frames: int = Field(default=10_000, ge=0, le=1_000_000, description="newest frames with patches in RAM")
    max_bytes: ByteSize | None = Field(
        default=None, ge=2**20, description="bytes on disk, such as 4GiB; null: a share of the disk"
    )
    recorder_url: Link | None = Field(default=None, description="the page links here for fluent video")
    masks: tuple[Polygon, ...] = Field(default=(), max_length=64, description="polygons that are blackened")
    metadata: Metadata = Field(default_factory=dict, description="JSON kept with every frame")
    egress: Literal["local_only", "allowed"] = Field(
        default="local_only", description="addresses its pictures may be sent to"
    )

    @property
    def address(self) -> str:
        """The `url` with user and password, as `open_source` takes it. Keep it out of messages. "" without `url`."""
        url = self.url or ""
        if self.username is None:
            return f"webcam:{url}" if url.startswith("/dev/") else url
        password = "" if self.password is None else self.password.get_secret_value()
        return url.replace("://", f"://{quote(self.username, safe='')}:{quote(password, safe='')}@", 1)

    @model_validator(mode="after")
    def _has_one_user(self) -> "CameraSettings":
        if self.password is not None and self.username is None:
            raise ValueError("password needs username")
        if self.username is not None:
            parts = re.fullmatch(r"(?i)(?:rtsps?|https?)://([^/?#]*).*", self.url or "", re.DOTALL)
            if parts is None or "@" in parts[1]:
                raise ValueError("username needs an rtsp:// or http:// url without a user of its own")
        return self


class MemorySettings(Part):
    """Limits on the stored frames of all cameras together. Each camera has its own limits in addition."""

    keep: Span | None = Field(default=None, gt=0, description="age of any frame, such as 7d; null: no limit")
    max_frames: int | None = Field(default=None, ge=1, description="frames of all cameras; null: a share of the memory")
    max_bytes: ByteSize | None = Field(
        default=None, ge=2**20, description="bytes of all cameras; null: a share of the disk"
    )


class ModelSettings(Part):
    """The neural network, and the device and precision it runs with."""

    path: str = Field(default="builtin", min_length=1, description="checkpoint folder, Hugging Face id or `builtin`")
    allow_builtin_encoder: bool = Field(
        default=False, description="use `builtin`, which knows drawn pictures only, with a server that answers"
    )
    device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="`cpu`, `cuda` or `cuda:1`")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(default="float32", description="precision of the weights")
    patch_storage: Literal["float16", "int8"] = Field(
        default="float16", description="precision of stored patches; int8 halves them"
    )
    language_4bit: bool = Field(default=False, description="4-bit language model; needs CUDA and extra `quantized`")
    num_threads: int | None = Field(default=None, ge=1, le=256, description="CPU threads; null: half of the cores")


class PartsOfDaySettings(Part):
    """What the words for parts of a day mean, as local times. A part that ends before it begins ends the next day."""

    early_morning: DayRange = Field(default="04:00-08:00", description="`early this morning`")
    morning: DayRange = Field(default="06:00-12:00", description="`this morning`")
    noon: DayRange = Field(default="11:30-13:00", description="`at noon`; as a bound it is 12:00")
    lunchtime: DayRange = Field(default="11:30-14:00", description="`at lunchtime`")
    afternoon: DayRange = Field(default="12:00-18:00", description="`yesterday afternoon`")
    evening: DayRange = Field(default="18:00-22:00", description="`on Monday evening`")
    night: DayRange = Field(default="22:00-06:00", description="`last night`")
    tarde: DayRange = Field(default="12:00-20:00", description="`ayer por la tarde`, in Spanish")
    noche: DayRange = Field(default="20:00-06:00", description="`ayer por la noche`, in Spanish")

    def ranges(self) -> PartsOfDay:
        """Return the beginning and end of each part in minutes after midnight, by its name."""
        return {name: minutes_of(getattr(self, name)) for name in type(self).model_fields}


class AnsweringSettings(Part):
    """How a question is answered. A value of null means that the model's checkpoint decides."""

    num_keyframes: int | None = Field(default=None, ge=1, le=512, description="frames kept with all patches (K)")
    selection: Literal["visits", "dks", "top_k", "uniform"] | None = Field(
        default=None, description="how keyframes are chosen: `visits`, `dks` (the paper), `top_k` or `uniform`"
    )
    redundancy: Literal["raw", "background"] | None = Field(
        default=None, description="compare frames directly, or against the background"
    )
    now_frames: int = Field(
        default=4,
        ge=0,
        le=10_000,
        description='frames per camera used for "now" questions; 0 uses the whole history',
    )
    parts_of_day: PartsOfDaySettings = PartsOfDaySettings()
    reading: Literal["own", "server"] = Field(
        default="own", description="who reads questions: the agent's `own` reader, or the `server`'s model where it can"
    )
    in_steps: bool = Field(default=True, description="answer existence, time, place and count questions in steps")
    max_calls: int = Field(default=128, ge=1, le=10_000, description="looks at pictures for one question, at most")
    max_pictures: int = Field(default=128, ge=1, le=10_000, description="pictures looked at for one question, at most")
    max_look_s: float = Field(default=60.0, gt=0, le=3600, description="seconds of looking for one question, at most")
    overview_pictures: int = Field(default=24, ge=1, le=512, description='pictures for "what happened?", at most')
    max_questions: int = Field(default=4, ge=1, le=1000, description="questions running or waiting; beyond it: 429")
    max_new_tokens: int = Field(default=128, ge=1, le=8192, description="tokens of an answer, at most")
    timeout_s: float = Field(default=120.0, gt=0, le=3600, description="seconds an answer may take")


class AnswererSettings(Part):
    """The language model that writes the answer: the one in the checkpoint, or one on a server."""

    kind: Literal["local", "openai", "none"] = Field(
        default="local", description="`local` checkpoint, `openai` server, or `none`: relevance alone"
    )
    base_url: BaseUrl | None = Field(default=None, description="server, such as http://127.0.0.1:11434/v1")
    model: Annotated[str, Field(min_length=1)] | None = Field(default=None, description="model name on the server")
    api_key: SecretStr | None = Field(default=None, description="server key")
    api_key_file: UserPath | None = Field(default=None, description="file with the key, read at every question")
    thinking_tokens: int = Field(default=2048, ge=0, le=131_072, description="further tokens for a model that thinks")
    timeout_s: float = Field(default=60.0, gt=0, le=3600, description="seconds the server may be silent")
    max_images: int = Field(default=8, ge=1, le=256, description="pictures per question, at most")
    max_image_width: int = Field(default=768, ge=64, le=7680, description="wider pictures are scaled down")
    concurrency: int | None = Field(
        default=None, ge=1, le=256, description="questions to the server at once; null: as many as it takes, at most 4"
    )
    tools: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="the server's model calls tools: `off`, `auto` (open questions) or `on`",
    )
    tool_rounds: int = Field(default=6, ge=1, le=100, description="rounds of tool calls for a question, at most")
    tool_pictures: int = Field(default=32, ge=1, le=1000, description="pictures that tools look at for a question")
    tool_s: float = Field(default=60.0, gt=0, le=3600, description="seconds of calling tools for a question")
    probe: bool = Field(default=True, description="ask the server at the first start what it can do")

    @model_validator(mode="after")
    def _is_whole(self) -> "AnswererSettings":
        if self.kind == "openai" and not (self.base_url and self.model):
            raise ValueError("kind openai needs base_url and model")
        if self.api_key is not None and self.api_key_file is not None:
            raise ValueError("give either api_key or api_key_file, not both")
        return self


class IceServer(Part):
    """A STUN or TURN server, with which WebRTC publishers and the agent connect through NAT and firewalls."""

    urls: tuple[Annotated[str, Field(pattern=r"^(stun|stuns|turn|turns):")], ...] = Field(
        min_length=1, description="such as `stun:host:3478`"
    )
    username: str | None = Field(default=None, description="required for TURN")
    credential: SecretStr | None = Field(default=None, description="required for TURN")
    used_by: Literal["publishers", "agent", "both"] = Field(
        default="publishers", description="`publishers`, the `agent` itself or `both`"
    )

    @model_validator(mode="after")
    def _turn_has_credentials(self) -> "IceServer":
        if any(url.startswith("turn") for url in self.urls) and not (self.username and self.credential):
            raise ValueError("a TURN server needs username and credential")
        return self


class StreamingSettings(Part):
    """Live video: limits on WebRTC sessions, silent cameras and wrong clocks."""

    max_sessions: int = Field(default=16, ge=1, le=1000, description="WebRTC publishers at once; beyond it: 503")
    max_viewers: int = Field(default=4, ge=0, le=100, description="live views at once; beyond it: 503; 0: none")
    stall_timeout_s: float = Field(default=10.0, gt=0, le=600, description="seconds without a frame that end a session")
    udp_ports: Ports | None = Field(
        default=None, description="UDP port that all sessions share, or a range such as 50000-50099; null: random"
    )
    public_addresses: tuple[Address, ...] = Field(
        default=(), max_length=8, description="IP addresses at which others reach the same UDP ports"
    )
    ice_servers: tuple[IceServer, ...] = Field(default=(), description="STUN and TURN servers")
    max_skew_s: float = Field(default=5.0, ge=0, le=86_400, description="largest clock error of a trusted publisher")
    metadata_max_age_s: float = Field(
        default=3.0, gt=0, le=3600, description="seconds a robot's metadata applies to frames"
    )

    @model_validator(mode="after")
    def _agent_can_use_its_servers(self) -> "StreamingSettings":
        urls = [url for server in self.ice_servers if server.used_by != "publishers" for url in server.urls]
        for url in urls:
            if not re.fullmatch(r"stun:[^?:\s]+(:\d+)?|turns?:[^?:\s]+(:\d+)?(\?transport=(udp|tcp))?", url):
                raise ValueError(f'the agent cannot use "{url}": write stun:host:port or turn:host:port?transport=tcp')
        if any(sum(url.startswith(kind) for url in urls) > 1 for kind in ("stun", "turn")):
            raise ValueError("the agent uses one STUN and one TURN server: set used_by: publishers for the others")
        return self


class TokenSettings(Part):
    """A token defined in the configuration, in addition to those that the first start creates."""

    name: Slug = Field(description="unique name for messages")
    token: Token = Field(description="16 or more printable characters, no spaces")
    scopes: tuple[Scope, ...] = Field(min_length=1, description="one or more of those below")


class SecuritySettings(Part):
    """Access control. It is enabled by default, and the first start creates tokens."""

    enabled: bool = Field(default=True, description="false is accepted on a loopback host only")
    tokens: tuple[TokenSettings, ...] = Field(default=(), description="further tokens")
    url_ttl_s: float = Field(default=3600.0, ge=1, le=30 * 86_400, description="lifetime of a signed picture URL")
    cors_origins: tuple[Origin, ...] = Field(
        default=(), max_length=64, description='origins whose pages may call the API; "*": all'
    )

    @model_validator(mode="after")
    def _names_differ(self) -> "SecuritySettings":
        names = [token.name for token in self.tokens]
        if len(set(names)) < len(names):
            raise ValueError("two tokens have the same name: give each its own")
        return self


class TlsSettings(Part):
    """HTTPS: either a certificate with its key, or a self-signed certificate. Off if neither is set."""

    cert: UserPath | None = Field(default=None, description="PEM certificate with its chain")
    key: UserPath | None = Field(default=None, description="its private key, unencrypted")
    self_signed: bool = Field(default=False, description="create and renew a certificate for this machine")
    hosts: tuple[str, ...] = Field(default=(), description="further names in that certificate")

    @model_validator(mode="after")
    def _one_way(self) -> "TlsSettings":
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key come together: give both files")
        if self.cert is not None and self.self_signed:
            raise ValueError("give either cert and key or self_signed, not both")
        return self

    @property
    def enabled(self) -> bool:
        """Whether the server uses HTTPS."""
        return self.cert is not None or self.self_signed


class Settings(Part):
    """The whole configuration."""

    data_dir: UserPath = Field(
        default_factory=lambda: default_data_dir(), description="folder of memory, tokens and certificates"
    )
    host: str = Field(default="127.0.0.1", min_length=1, description='listening address; 0.0.0.0 or "::" for all')
    port: int = Field(default=8080, ge=0, le=65_535, description="TCP port; 0: any free one")
    allow_new_cameras: bool = Field(default=True, description="accept publishers of unlisted cameras")
    public_url: BaseUrl | None = Field(default=None, description="address others reach this agent at")
    trusted_proxies: list[Network] = Field(
        default_factory=list, description="proxies whose X-Forwarded-For and X-Forwarded-Proto are trusted"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="`debug`, `info`, `warning` or `error`"
    )
    cameras: dict[Slug, CameraSettings] = Field(default_factory=dict, description="cameras by name")
    memory: MemorySettings = MemorySettings()
    model: ModelSettings = ModelSettings()
    answering: AnsweringSettings = AnsweringSettings()
    answerer: AnswererSettings = AnswererSettings()
    streaming: StreamingSettings = StreamingSettings()
    mqtt: MqttSettings = MqttSettings()
    webhooks: dict[Slug, WebhookSettings] = Field(default_factory=dict, description="receivers of events by name")
    rules: dict[Slug, RuleSettings] = Field(default_factory=dict, description="standing questions by name")
    alerts: AlertsSettings = AlertsSettings()
    security: SecuritySettings = SecuritySettings()
    tls: TlsSettings = TlsSettings()

    @model_validator(mode="after")
    def _open_only_at_home(self) -> "Settings":
        if not self.security.enabled and not is_loopback(self.host):
            raise ValueError(
                f'security.enabled is false while listening on "{self.host}": everyone there could see the cameras; '
                "set host to 127.0.0.1 or leave security on"
            )
        return self

    @model_validator(mode="after")
    def _encoder_knows_real_pictures(self) -> "Settings":
        drawn_only = self.model.path == "builtin" and not self.model.allow_builtin_encoder
        if self.answerer.kind == "openai" and drawn_only:
            raise ValueError(
                "model.path is builtin, which knows drawn pictures only and cannot choose among those of real cameras: "
                f"set model.path to {RECOMMENDED} (or what `vilamp model fetch` fetched); for trying out set "
                "model.allow_builtin_encoder: true"
            )
        return self

    @model_validator(mode="after")
    def _rules_have_a_judge(self) -> "Settings":
        if self.answerer.kind == "none" and any(rule.enabled for rule in self.rules.values()):
            raise ValueError(
                "rules need a language model that judges them: set answerer.kind, or enabled: false for each"
            )
        return self

    def camera(self, name: str) -> CameraSettings:
        """Return the settings of a camera. A camera that is not in the configuration has the defaults."""
        return self.cameras.get(name) or CameraSettings()


def default_data_dir() -> Path:
    """Return the user's data folder: $XDG_DATA_HOME/vilamp, or ~/.local/share/vilamp."""
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "vilamp"


def effective(settings: Settings) -> dict[str, Any]:
    """Return the settings as plain values for display, with secrets and passwords replaced by stars."""
    plain: dict[str, Any] = redacted(settings.model_dump(mode="json"))
    return plain


# Matches text that may be "user:password@host", an address whose scheme is missing or misspelt
_MAYBE_ADDRESS = re.compile(r"\S*:\S*@\S")


def redacted(value: Any) -> Any:
    """Return a copy of `value`, in which the passwords in addresses are replaced by stars.

    value: plain data, that is, dicts, lists, text and numbers.
    """
    match value:
        case str():
            return redact(value) if "://" in value or _MAYBE_ADDRESS.match(value) else value
        case dict():
            return {key: redacted(each) for key, each in value.items()}
        case list():
            return [redacted(each) for each in value]
    return value
