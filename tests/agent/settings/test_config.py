"""Settings: precedence of sources, refused values and their messages, removed settings."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from agent.settings.removed import REMOVED
from agent.settings.rules import GateSettings, RuleSettings
from agent.settings.settings import CameraSettings, Settings, effective
from agent.settings.source import ConfigError, load_settings
from agent.settings.types import check_slug, is_loopback
from tests.support.processes import vilamp

ROOT = Path(__file__).parents[3]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "vilamp.yaml"
    path.write_text(text)
    return path


def complaints(path: Path | None, environ: dict[str, str] | None = None, **overrides: Any) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        load_settings(path, environ=environ or {}, overrides=overrides)
    return [str(problem).replace(f"{path}:", "FILE:") for problem in refused.value.mistakes]


def test_defaults_are_valid_and_secure() -> None:
    settings = load_settings(None, environ={})
    assert settings == Settings()
    assert settings.security.enabled
    assert is_loopback(settings.host)
    assert settings.camera("gate") == CameraSettings()
    assert (settings.camera("gate").rate_hz, settings.camera("gate").max_frames) == (1.0, None)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


def test_command_line_wins_over_environment_over_file(tmp_path: Path) -> None:
    path = write(tmp_path, "port: 1\nhost: 127.0.0.2\nmodel: {dtype: bfloat16}\n")
    environ = {"VILAMP_PORT": "2", "VILAMP_MODEL__NUM_THREADS": "1", "HOME": "/", "VILAMP_TOKEN": "x"}
    settings = load_settings(path, environ=environ, overrides={"port": 3})
    assert (settings.port, settings.host) == (3, "127.0.0.2")
    assert (settings.model.dtype, settings.model.num_threads) == ("bfloat16", 1)
    assert load_settings(path, environ=environ).port == 2
    assert load_settings(path, environ={}).port == 1


def test_environment_values_of_all_types() -> None:
    settings = load_settings(
        None,
        environ={
            "VILAMP_ALLOW_NEW_CAMERAS": "false",
            "VILAMP_CAMERAS__GATE__URL": "rtsp://gate/1",
            "VILAMP_CAMERAS__GATE__MAX_BYTES": "3GiB",
            "VILAMP_CAMERAS__GATE__MAX_AGE_S": "null",
            "VILAMP_STREAMING__ICE_SERVERS": '[{"urls": ["stun:stun.example:3478"]}]',
            "VILAMP_LOG_LEVEL": "",
        },
    )
    assert settings.cameras["gate"].url == "rtsp://gate/1"
    assert settings.cameras["gate"].max_bytes == 3 * 2**30
    assert settings.streaming.ice_servers[0].urls == ("stun:stun.example:3478",)
    assert (settings.allow_new_cameras, settings.log_level) == (False, "info")


def test_environment_names_cameras_with_a_dash(tmp_path: Path) -> None:
    path = write(tmp_path, "cameras: {front-door: {url: 'rtsp://a/1'}}\n")
    settings = load_settings(path, environ={"VILAMP_CAMERAS__FRONT_DOOR__URL": "rtsp://b/1"})
    assert {name: camera.url for name, camera in settings.cameras.items()} == {"front-door": "rtsp://b/1"}


def test_unknown_settings_are_reported_with_place_and_suggestion(tmp_path: Path) -> None:
    path = write(tmp_path, "prot: 1\ncameras:\n  gate:\n    rate: 2\nstreaming:\n  max_sesions: 3\nxyzzy: 1\n")
    found = complaints(path, {"VILAMP_MODEL__DTYP": "float32"})
    assert 'FILE:1: prot: unknown setting; did you mean "port"?' in found
    assert 'FILE:4: cameras.gate.rate: unknown setting; did you mean "rate_hz"?' in found
    assert 'FILE:6: streaming.max_sesions: unknown setting; did you mean "max_sessions"?' in found
    assert 'environment VILAMP_MODEL__DTYP: model.dtyp: unknown setting; did you mean "dtype"?' in found
    assert any(each.startswith("FILE:7: xyzzy: unknown setting; valid here: data_dir, host") for each in found)
    assert len(found) == 5  # all of them at once


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("port: 80800", "FILE:1: port: must be less than or equal to 65535 (it is 80800)"),
        ("cameras: {Gate: {}}", 'FILE:1: cameras.Gate: "Gate" cannot be a name'),
        ("cameras: {ask: {}}", "taken by the MQTT topics"),
        ("cameras: {gate: {url: 'gopher://x'}}", 'cameras.gate.url: cannot open "gopher://": use rtsp://'),
        ("cameras: {gate: {timezone: Mars}}", '"Mars" is not a time zone: use an IANA name'),
        ("cameras: {gate: {metadata: {x: .nan}}}", "cameras.gate.metadata: metadata is plain JSON: no NaN"),
        ("cameras: {gate: {metadata: {x: {y: [-.inf]}}}}", "metadata is plain JSON"),
        ('cameras: {gate: {metadata: {x: "\\ud800"}}}', "no lone surrogates"),
        ("cameras: {gate: {metadata: {x: '" + 40_000 * "a" + "'}}}", "at most 32768 are kept with each frame"),
        ("cameras: {gate: {max_bytes: lots}}", "must be a number of bytes, or a text such as 4GiB"),
        ("cameras: [gate]", "FILE:1: cameras: must be a mapping of settings"),
        ("answering: 3", "FILE:1: answering: must be a mapping of settings (num_keyframes,"),
        ("model: {device: tpu}", 'must be "cpu", "cuda" or "cuda:0" (it is "tpu")'),
        ("model: {dtype: fp32}", "must be 'float32', 'bfloat16' or 'float16' (it is \"fp32\")"),
        ("streaming:\n  ice_servers:\n  - urls: [turn:x]", "FILE:3: streaming.ice_servers[0]: a TURN server needs"),
        ("cameras: {gate: {url: /a.mp4, username: ann}}", "cameras.gate: username needs an rtsp:// or http:// url"),
        ("cameras: {gate: {url: 'rtsp://bob@h/1', username: ann}}", "without a user of its own"),
        ("cameras: {gate: {url: 'rtsp://h/1', password: x}}", "cameras.gate: password needs username"),
        ("cameras: {gate: {url: 'rtsp://h/1', transport: http}}", "must be 'auto', 'tcp' or 'udp'"),
        ("streaming: {udp_ports: 70000}", '"70000" is not a port such as 8189 or a range'),
        ("streaming: {udp_ports: 9-5}", '"9-5" is not a port'),
        ("streaming: {public_addresses: [example.org]}", '"example.org" is not an IP address'),
        ("streaming: {ice_servers: [{urls: ['stuns:x'], used_by: agent}]}", 'the agent cannot use "stuns:x"'),
        ("streaming: {ice_servers: [{urls: ['stun:x', 'stun:y'], used_by: both}]}", "one STUN and one TURN"),
        ("security:\n  tokens:\n  - {token: abc, name: x, scopes: [ask]}", "a token has at least 16 printable"),
        ("security: {tokens: [{name: x, token: 0123456789abcdefX, scopes: [publish]}]}", "is not a scope: use"),
        ("security: {tokens: [{name: x, token: 0123456789abcdefX, scopes: []}]}", "needs at least one entry"),
        ("security: {tokens: [{name: x, scopes: [ask]}]}", "security.tokens[0].token: is missing: add it"),
        ("tls: {cert: a.pem}", "FILE:1: tls: cert and key come together"),
        ("tls: {cert: a.pem, key: b, self_signed: true}", "not both"),
        ("host: 0.0.0.0\nsecurity: {enabled: false}", "everyone there could see the cameras"),
        ("port: 1\nport: 2", "FILE:2: port: is given twice"),
        ("port: [1", "FILE:1: is not valid YAML"),
        ("- 1\n- 2", "must be a mapping of settings"),
        ("port: !!python/object:os.system x", "is not valid YAML"),
    ],
)
def test_invalid_values_are_reported_with_advice(tmp_path: Path, text: str, complaint: str) -> None:
    assert any(complaint in each for each in complaints(write(tmp_path, text)))


def test_unreadable_files_are_reported(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in complaints(tmp_path / "absent.yaml")[0]
    assert "cannot be read: Is a directory" in complaints(tmp_path)[0]
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in complaints(binary)[0]
    binary.write_bytes(b" " * (2 << 20))
    assert "larger than" in complaints(binary)[0]


def test_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, "# nothing\n"), environ={}) == Settings()


def test_invalid_environment_values_are_reported() -> None:
    assert "write lists and mappings as JSON" in complaints(None, {"VILAMP_CAMERAS": "{gate: "})[0]
    assert "not a mapping" in complaints(None, {"VILAMP_PORT": "1", "VILAMP_PORT__X": "2"})[0]


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    path = write(tmp_path, "security: {tokens: [{name: x, token: [hunter2hunter2], scopes: [ask]}]}")
    assert not any("hunter2" in each for each in complaints(path))
    settings = load_settings(
        None,
        environ={
            "VILAMP_CAMERAS__GATE__URL": "rtsp://joe:hunter2@gate:554/1",
            "VILAMP_SECURITY__TOKENS": '[{"name": "x", "token": "hunter2hunter2hunter2", "scopes": ["ask"]}]',
        },
    )
    shown = effective(settings)
    assert "hunter2" not in str(shown)
    assert shown["cameras"]["gate"]["url"] == "rtsp://***@gate:554/1"


@pytest.mark.parametrize("name", ["a", "front-door_2", "x" * 64])
def test_valid_names(name: str) -> None:
    assert check_slug(name) == name


@pytest.mark.parametrize("name", ["", "A", "a b", "a/b", "..", "x" * 65, "ask", "answer", "status", "gate\n"])
def test_invalid_names(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        check_slug(name)


def test_example_file_equals_the_defaults() -> None:
    settings = load_settings(ROOT / "vilamp.example.yaml", environ={})
    bare = settings.model_copy(update={"cameras": {}, "webhooks": {}, "rules": {}, "data_dir": Settings().data_dir})
    assert bare == Settings()
    assert set(settings.cameras) == {"gate", "front-door"}


def test_example_file_names_every_setting() -> None:
    text = (ROOT / "vilamp.example.yaml").read_text()
    for part in (Settings, CameraSettings, *(field.annotation for field in Settings.model_fields.values())):
        for name in getattr(part, "model_fields", {}):
            assert f"{name}:" in text, f"{name} is not in vilamp.example.yaml"


# --- settings of earlier versions ---


def written(name: str) -> dict[str, Any]:
    """A configuration with the setting `name`; "*" becomes the name "one"."""
    value: Any = 7
    for key in reversed(name.replace("*", "one").split(".")):
        value = {key: value}
    if "webhooks" in value:
        value["webhooks"]["one"]["url"] = "https://hooks.example"
    if "rules" in value:
        value["rules"]["one"]["condition"] = "a bag"
    return value


@pytest.mark.parametrize("name", REMOVED)
def test_removed_settings_give_a_warning_with_their_line(tmp_path: Path, name: str) -> None:
    warnings: list[str] = []
    tree = written(name)
    path = write(tmp_path, yaml.safe_dump(tree))
    settings = load_settings(path, environ={}, warn=lambda mistake: warnings.append(str(mistake)))
    bare = settings.model_copy(update={"webhooks": {}, "rules": {}})
    assert bare == Settings()
    setting = name.replace("*", "one")
    line = next(
        n for n, text in enumerate(path.read_text().splitlines(), 1) if text.strip() == f"{name.split('.')[-1]}: 7"
    )
    assert warnings == [f"{path}:{line}: {setting}: was removed: {REMOVED[name]}; delete this setting"]
    with pytest.raises(ValidationError):  # it is not a setting any more
        Settings.model_validate(tree) if "rules" not in tree else GateSettings.model_validate(
            tree["rules"]["one"]["gate"]
        )


def test_removed_settings_in_the_environment_give_a_warning() -> None:
    warnings: list[str] = []
    environ = {"VILAMP_ANSWERER__RETRIES": "5"}
    assert load_settings(None, environ=environ, warn=lambda mistake: warnings.append(str(mistake))) == Settings()
    assert warnings == [
        "environment VILAMP_ANSWERER__RETRIES: answerer.retries: was removed: it is always 2; delete this setting"
    ]


def test_stored_rules_with_removed_settings_still_work(caplog: pytest.LogCaptureFixture) -> None:
    given = {"condition": "a bag", "gate": {"on": 7, "surge": 2, "warm_up_frames": 30}}
    rule = RuleSettings.model_validate(given)
    assert (rule.gate.on, rule.gate.off) == (7, 4)
    assert given["gate"] == {"on": 7, "surge": 2, "warm_up_frames": 30}  # the caller's own is not changed
    assert {record.setting for record in caplog.records} == {"gate.surge", "gate.warm_up_frames"}  # type: ignore[attr-defined]


def test_commands_print_what_replaced_a_removed_setting(tmp_path: Path) -> None:
    path = write(tmp_path, "port: 9000\nalerts:\n  late_s: 60\n")
    warning = f"warning: {path}:3: alerts.late_s: was removed: it is always 300; delete this setting\n"
    checked = vilamp("check-config", str(path))
    assert (checked.returncode, checked.stderr) == (0, warning)
    assert checked.stdout.startswith("OK: ")
    listed = vilamp("memory", "--config", str(path), "--data-dir", str(tmp_path / "none"))
    assert listed.stderr.startswith(warning)
