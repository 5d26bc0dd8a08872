"""Settings of MQTT and webhooks: accepted and refused values."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from agent.settings.mqtt import MqttSettings
from agent.settings.settings import Settings, effective
from agent.settings.webhooks import WebhookSettings


@pytest.mark.parametrize(
    ("url", "address", "tls"),
    [
        ("mqtt://broker", ("broker", 1883), False),
        ("mqtt://10.0.0.2:1884", ("10.0.0.2", 1884), False),
        ("mqtts://broker.example", ("broker.example", 8883), True),
        ("mqtts://[::1]:9", ("::1", 9), True),
    ],
)
def test_broker_addresses(url: str, address: tuple[str, int], tls: bool) -> None:
    settings = MqttSettings(url=url)
    assert (settings.address(), settings.tls) == (address, tls)


@pytest.mark.parametrize("url", ["broker:1883", "http://broker", "mqtt://", "mqtt://broker:0", "mqtt://broker:99999"])
def test_invalid_broker_addresses(url: str) -> None:
    with pytest.raises(ValidationError, match="mqtt://host:1883"):
        MqttSettings(url=url)


def test_credentials_in_the_address_are_refused() -> None:
    with pytest.raises(ValidationError, match="set user and password separately"):
        MqttSettings(url="mqtt://joe:secret@broker")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"password": "x"}, "needs a user"),
        ({"user": "joe", "password": "x", "password_file": "y"}, "not both"),
        ({"url": "mqtts://b", "cert": "a.pem"}, "come together"),
        ({"url": "mqtt://b", "ca": "a.pem"}, "mqtts://"),
        ({"url": "embedded", "embedded_host": "0.0.0.0"}, "open to everyone"),
        ({"prefix": "a/#"}, "cannot begin a topic"),
        ({"prefix": "/a"}, "cannot begin a topic"),
        ({"prefix": "a//b"}, "cannot begin a topic"),
        ({"version": 4}, "'5' or '3.1.1'"),
    ],
)
def test_contradictory_settings_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        MqttSettings.model_validate(given)


def test_version_may_be_a_number() -> None:
    assert MqttSettings.model_validate({"version": 5}).version == "5"


def test_password_from_file_or_settings(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    assert MqttSettings(user="joe", password_file=tmp_path / "secret").secret() == "s3cret"
    assert MqttSettings(user="joe", password="other").secret() == "other"  # type: ignore[arg-type]
    assert MqttSettings().secret() is None


def test_secrets_are_not_shown() -> None:
    given = {
        "mqtt": {"user": "joe", "password": "s3cret"},
        "webhooks": {"pager": {"url": "https://hooks.example/T0KEN", "secret": "0123456789abcdef"}},
    }
    settings = Settings.model_validate(given)
    for shown in (repr(settings), str(effective(settings))):
        assert "s3cret" not in shown
        assert "T0KEN" not in shown
        assert "0123456789abcdef" not in shown


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"url": "ftp://x"}, "such as https"),
        ({"url": "https://joe:x@host/"}, "without user"),
        ({"url": "https://host/a b"}, "such as https"),
        ({"url": "https://h", "secret": "short"}, "at least 16"),
        ({"url": "https://h", "secret": "whsec_???not-base64???"}, "base64"),
        ({"url": "https://h", "secret": "0123456789abcdef", "secret_file": "f"}, "not both"),
    ],
)
def test_invalid_webhooks(given: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        WebhookSettings.model_validate(given)


def test_webhook_keys(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("whsec_AAECAwQFBgcICQoLDA0ODw==\n")
    from_file = WebhookSettings.model_validate({"url": "https://h", "secret_file": tmp_path / "key"})
    assert from_file.key() == bytes(range(16))
    plain = WebhookSettings.model_validate({"url": "https://h", "secret": "0123456789abcdef"})
    assert plain.key() == b"0123456789abcdef"
    assert WebhookSettings.model_validate({"url": "https://h"}).key() is None
