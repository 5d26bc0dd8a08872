"""Settings: what can be configured, its defaults and its limits.

In: one YAML file and the environment (`agent/settings/source.py` reads them). Out: one frozen `Settings`.
Every dimension is a field here with a range; an unknown key is an error. Nothing is read when this module is
imported, and nothing here opens a camera, a model or a socket.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ByteSize, Field, SecretStr, model_validator

from agent.settings.memory import MemorySettings, Polygon
from agent.settings.mqtt import MqttSettings
from agent.settings.rules import AlertsSettings, RuleSettings
from agent.settings.types import (
    Metadata,
    Origin,
    Part,
    Scope,
    Slug,
    UserPath,
    Zone,
    check_base_url,
    check_link,
    check_network,
    check_source,
    check_token,
    is_loopback,
)
from agent.settings.webhooks import WebhookSettings
from agent.times import local_zone_name
from model.about_now import NUM_NEWEST
from model.visit_search import SAME_VISIT_GAP_S
from streaming.redact import redact


class CameraSettings(Part):
    """One camera: where its frames come from and how much of them is kept."""

    url: Annotated[str, Field(min_length=1), AfterValidator(check_source)] | None = Field(
        default=None,
        description="RTSP or HTTP address, video file or webcam:0; null: the camera publishes over WebRTC (WHIP)",
    )
    other_hosts: bool = Field(
        default=False,
        description="an HTTP camera's redirects and playlists may lead to other hosts and ports; false: they are refused",
    )
    enabled: bool = Field(default=True, description="false: no frames are taken; what is remembered stays")
    rate_hz: float = Field(default=1.0, gt=0, le=30, description="frames kept per second")
    timezone: Zone = Field(default_factory=local_zone_name, description="IANA zone the camera's times are shown in")
    max_width: int = Field(
        default=1280,
        ge=96,
        le=7680,
        description="kept pictures are scaled down to this many pixels on their longer side",
    )
    max_frames: int = Field(default=10_000, ge=1, le=10_000_000, description="frames remembered, the oldest go first")
    hot_frames: int = Field(
        default=10_000, ge=0, le=1_000_000, description="of those, the newest that keep their patches in memory"
    )
    max_bytes: ByteSize = Field(
        default=ByteSize(4 * 2**30), ge=2**20, description="bytes remembered, as 4GiB or a number"
    )
    max_age_s: float | None = Field(default=None, gt=0, description="seconds remembered; null: no limit by age")
    recorder_url: Annotated[str, AfterValidator(check_link)] | None = Field(
        default=None, description="address of the site's own recorder or gateway for fluent video; the page links to it"
    )
    masks: tuple[Polygon, ...] = Field(
        default=(),
        max_length=64,
        description="polygons of points [x, y], 0 to 1, that are blackened before anything else",
    )
    metadata: Metadata = Field(default_factory=dict, description="kept beside every frame of this camera")
    egress: Literal["local_only", "allowed"] = Field(
        default="local_only",
        description="where answerer: openai may send its pictures: loopback and private addresses only, or anywhere",
    )


class ModelSettings(Part):
    """The network and what it runs on."""

    path: str = Field(
        default="builtin",
        min_length=1,
        description='checkpoint folder, or a Hugging Face id as org/name; "builtin": the small model shipped here',
    )
    device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description='"cpu", "cuda" or "cuda:1"')
    dtype: Literal["float32", "bfloat16", "float16"] = Field(default="float32", description="precision of the weights")
    patch_storage: Literal["float16", "int8"] = Field(
        default="float16", description="how the patches of a frame are remembered; int8 takes half the memory"
    )
    language_4bit: bool = Field(
        default=False, description="language model in 4 bits; needs CUDA and the extra `quantized`"
    )
    num_threads: int | None = Field(
        default=None, ge=1, le=256, description="CPU threads of the network; null: half of the cores"
    )
    batch_size: int = Field(default=8, ge=1, le=256, description="frames of all cameras encoded at once, at most")


class AnsweringSettings(Part):
    """How a question is answered; null leaves a value to the checkpoint."""

    num_keyframes: int | None = Field(default=None, ge=1, le=512, description="frames kept with all their patches (K)")
    recent: int | None = Field(
        default=None, ge=0, le=512, description="of those, places reserved for the newest frames"
    )
    tau: float | None = Field(default=None, ge=-1, le=1, description="cosine above which a frame is redundant")
    redundancy: Literal["raw", "background"] | None = Field(
        default=None, description="cosines between frames themselves, or relative to the camera's background"
    )
    min_per_camera: int | None = Field(
        default=None, ge=0, le=512, description="keyframes of each camera asked about, at least; null: half its share"
    )
    now_frames: int = Field(
        default=NUM_NEWEST, ge=0, le=10_000, description="newest frames of each camera that a question about now looks at; "
        "0: at all that is remembered, as every other question",
    )  # fmt: skip
    in_steps: bool = Field(
        default=True,
        description="whether, where and how often a thing came, first or last, and what came before what are answered in steps",
    )
    visit_gap_s: float = Field(
        default=SAME_VISIT_GAP_S,
        gt=0,
        le=86_400,
        description="seconds out of sight after which a thing that is counted has come again",
    )
    max_questions: int = Field(
        default=4, ge=1, le=1000, description="questions in work or waiting; beyond it: busy (429)"
    )
    max_question_chars: int = Field(default=2000, ge=1, le=100_000, description="longer questions are refused (413)")
    max_new_tokens: int = Field(default=128, ge=1, le=8192, description="tokens of an answer, at most")
    timeout_s: float = Field(default=120.0, gt=0, le=3600, description="seconds an answer may take")


class AnswererSettings(Part):
    """Who puts the answer into words: the checkpoint, or a server that is shown the keyframes."""

    kind: Literal["local", "openai"] = Field(
        default="local", description="the checkpoint's own language model, or any OpenAI-compatible vision server"
    )
    base_url: Annotated[str, AfterValidator(check_base_url)] | None = Field(
        default=None, description="that server, as http://127.0.0.1:11434/v1"
    )
    model: Annotated[str, Field(min_length=1)] | None = Field(default=None, description="the model's name there")
    api_key: SecretStr | None = Field(default=None, description="its key, best given as VILAMP_ANSWERER__API_KEY")
    api_key_file: UserPath | None = Field(default=None, description="or a file with the key, read at every question")
    limit_name: Literal["max_tokens", "max_completion_tokens"] = Field(
        default="max_tokens", description="what that server calls the most tokens of an answer"
    )
    thinking_tokens: int = Field(
        default=2048,
        ge=0,
        le=131_072,
        description="further tokens for a model that has been seen to think before it answers",
    )
    timeout_s: float = Field(default=60.0, gt=0, le=3600, description="seconds the server may be silent")
    retries: int = Field(default=2, ge=0, le=10, description="further tries, only before the first token")
    max_images: int = Field(default=8, ge=1, le=256, description="pictures sent with a question, at most")
    max_image_width: int = Field(default=768, ge=64, le=7680, description="pixels across; wider ones are scaled down")
    max_image_bytes: ByteSize = Field(
        default=ByteSize(4 * 2**20), ge=2**14, description="bytes of all pictures of a question together"
    )

    @model_validator(mode="after")
    def _is_whole(self) -> "AnswererSettings":
        if self.kind == "openai" and not (self.base_url and self.model):
            raise ValueError("kind openai needs base_url and model")
        if self.api_key is not None and self.api_key_file is not None:
            raise ValueError("give either api_key or api_key_file, not both")
        return self


class IceServer(Part):
    """A STUN or TURN server named to publishers."""

    urls: tuple[Annotated[str, Field(pattern=r"^(stun|stuns|turn|turns):")], ...] = Field(min_length=1)
    username: str | None = None
    credential: SecretStr | None = None

    @model_validator(mode="after")
    def _turn_has_credentials(self) -> "IceServer":
        if any(url.startswith("turn") for url in self.urls) and not (self.username and self.credential):
            raise ValueError("a TURN server needs username and credential")
        return self


class StreamingSettings(Part):
    """Live sources: sessions, stalls and clocks."""

    max_sessions: int = Field(default=16, ge=1, le=1000, description="WebRTC publishers at once; beyond it: 503")
    stall_timeout_s: float = Field(default=10.0, gt=0, le=600, description="seconds without a frame that end a session")
    ice_servers: tuple[IceServer, ...] = Field(default=(), description="STUN and TURN servers named to publishers")
    max_skew_s: float = Field(
        default=5.0, ge=0, le=86_400, description="a publisher's clock further off than this is ignored"
    )
    metadata_max_age_s: float = Field(
        default=3.0, gt=0, le=3600, description="how long what a publisher tells, such as a pose, goes with its frames"
    )


class TokenSettings(Part):
    """A token given in the configuration, beside those made at first start."""

    name: Slug
    token: Annotated[SecretStr, AfterValidator(check_token)]
    scopes: tuple[Scope, ...] = Field(min_length=1)


class SecuritySettings(Part):
    """Who may do what. On by default; tokens are made at first start."""

    enabled: bool = Field(default=True, description="false is accepted on a loopback host only")
    tokens: tuple[TokenSettings, ...] = Field(default=(), description="more tokens, each with name, token and scopes")
    url_ttl_s: float = Field(
        default=3600.0, ge=1, le=30 * 86_400, description="seconds a signed picture URL stays valid"
    )
    cors_origins: tuple[Origin, ...] = Field(
        default=(),
        max_length=64,
        description='origins whose pages may use /v1, such as https://panel.example; "*": all; none: CORS is off',
    )

    @model_validator(mode="after")
    def _names_differ(self) -> "SecuritySettings":
        names = [token.name for token in self.tokens]
        if len(set(names)) < len(names):
            raise ValueError("two tokens have the same name: give each its own")
        return self


class TlsSettings(Part):
    """HTTPS: a certificate and its key, or one made here."""

    cert: UserPath | None = Field(default=None, description="PEM file with the certificate (and its chain)")
    key: UserPath | None = Field(default=None, description="PEM file with its private key")
    self_signed: bool = Field(default=False, description="make a certificate for this machine's names and addresses")
    hosts: tuple[str, ...] = Field(default=(), description="more names and addresses for the self-signed certificate")

    @model_validator(mode="after")
    def _one_way(self) -> "TlsSettings":
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key come together: give both files")
        if self.cert is not None and self.self_signed:
            raise ValueError("give either cert and key or self_signed, not both")
        return self

    @property
    def enabled(self) -> bool:
        """True when the server speaks HTTPS."""
        return self.cert is not None or self.self_signed


class Settings(Part):
    """The whole configuration."""

    data_dir: UserPath = Field(
        default_factory=lambda: default_data_dir(), description="where memory, tokens and certificates are kept"
    )
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description='address to listen on; 0.0.0.0: all of IPv4, "::": all of IPv4 and IPv6',
    )
    port: int = Field(default=8080, ge=0, le=65_535, description="TCP port; 0: any free one")
    allow_new_cameras: bool = Field(default=True, description="a publisher may name a camera that is not listed here")
    public_url: Annotated[str, AfterValidator(check_base_url)] | None = Field(
        default=None,
        description="address at which others reach this agent, with the path below which a proxy has it: "
        "URLs in messages begin with it",
    )
    trusted_proxies: list[Annotated[str, AfterValidator(check_network)]] = Field(
        default_factory=list,
        description="addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed",
    )
    cameras: dict[Slug, CameraSettings] = Field(default_factory=dict, description="cameras by name")
    memory: MemorySettings = MemorySettings()
    model: ModelSettings = ModelSettings()
    answering: AnsweringSettings = AnsweringSettings()
    answerer: AnswererSettings = AnswererSettings()
    streaming: StreamingSettings = StreamingSettings()
    mqtt: MqttSettings = MqttSettings()
    webhooks: dict[Slug, WebhookSettings] = Field(
        default_factory=dict, description="receivers of alert events by name, over HTTP"
    )
    security: SecuritySettings = SecuritySettings()
    tls: TlsSettings = TlsSettings()
    rules: dict[Slug, RuleSettings] = Field(default_factory=dict, description="standing questions by name")
    alerts: AlertsSettings = AlertsSettings()
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _open_only_at_home(self) -> "Settings":
        if not self.security.enabled and not is_loopback(self.host):
            raise ValueError(
                f'security.enabled is false while listening on "{self.host}": everyone there could see the cameras; '
                "set host to 127.0.0.1 or leave security on"
            )
        return self

    def camera(self, name: str) -> CameraSettings:
        """Settings of `name`: its own, or the defaults for a camera that is not listed."""
        return self.cameras.get(name) or CameraSettings()


def default_data_dir() -> Path:
    """The user's data folder: $XDG_DATA_HOME/vilamp, or ~/.local/share/vilamp."""
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "vilamp"


def effective(settings: Settings) -> dict[str, Any]:
    """The settings as plain values, secrets and passwords replaced by stars (for `vilamp check-config` and logs)."""
    plain: dict[str, Any] = redacted(settings.model_dump(mode="json"))
    return plain


# "user:password@host", the scheme forgotten or half written
_MAYBE_ADDRESS = re.compile(r"\S*:\S*@\S")


def redacted(value: Any) -> Any:
    """A value of plain types with every address in it redacted."""
    match value:
        case str():
            return redact(value) if "://" in value or _MAYBE_ADDRESS.match(value) else value
        case dict():
            return {key: redacted(each) for key, each in value.items()}
        case list():
            return [redacted(each) for each in value]
    return value
