"""Secrets in addresses, of every shape that cameras and their owners use, stay out of everything that is shown."""

import asyncio
import json
import logging
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import Problem
from agent.runtime.logs import JsonLines
from agent.runtime.supervisor import words_of
from agent.settings.settings import Settings, effective
from agent.settings.source import ConfigError, load_settings
from streaming.errors import MediaLost
from streaming.redact import HINT, hint, redact, redact_text
from tests.support.agents import served
from tests.support.processes import vilamp

SECRET = "hunter2"
PLANTED = [
    "rtsp://ann:hunter2@127.0.0.1:9/live",
    "rtsp://hunter2@127.0.0.1:9/live",
    "rtsp://ann:hunter2%21@127.0.0.1:9/live?password=hunter2",
    "rtsp://127.0.0.1:9/x?user=a&pwd=hunter2",
    "rtsp://127.0.0.1:9/x?loginpas=hunter2&psw=hunter2;pw=hunter2",
    "rtsp://127.0.0.1:9/x?hunter2",
    "rtsp://127.0.0.1:9/user=admin_password=hunter2_channel=1_stream=0.sdp?real_stream",
    "rtsp://127.0.0.1:9/a%3Dhunter2/live",
    "rtsp://127.0.0.1:9/ann:hunter2/live",
    "rtsp://127.0.0.1:9/live;session=hunter2",
    "rtsp://127.0.0.1:9/live#hunter2",
    "rtsp://ann:pa/hunter2@127.0.0.1:9/live",
    "rtsp://ann:pa?hunter2@127.0.0.1:9/live",
    "rtsp://ann:pa#hunter2@127.0.0.1:9/live",
    "rtsp://ann:pa@hunter2@127.0.0.1:9/live",
    "rtsp://ann:12/hunter2@127.0.0.1:9/live",
    "http://127.0.0.1:9/x?user=ann&pwd=a@hunter2",
    "http://127.0.0.1:9/hunter2Qx7ZbK9wLm3PfT",
    "HTTP://ann:hunter2@127.0.0.1:9/x",
]


@pytest.mark.parametrize("url", PLANTED)
def test_no_secret_of_an_address_is_shown(url: str) -> None:
    assert SECRET not in redact(url)
    assert SECRET not in redact_text(f'cannot open "{url}": Connection refused (see {url}).')
    assert SECRET not in str(MediaLost(f"{url}: Connection refused"))
    assert SECRET not in Problem(f"{url}: Connection refused").message
    assert SECRET not in words_of(ValueError(f"{url}: Connection refused"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://cam.lan:554/Streaming/Channels/101", "rtsp://cam.lan:554/Streaming/Channels/101"),
        ("rtsp://10.0.0.5/cam/realmonitor?channel=1&subtype=0", "rtsp://10.0.0.5/cam/realmonitor?channel=1&subtype=0"),
        ("rtsp://[fd00::1]:554/h264Preview_01_main", "rtsp://[fd00::1]:554/h264Preview_01_main"),
        ("http://cam/cgi-bin/mjpg/video.cgi", "http://cam/cgi-bin/mjpg/video.cgi"),
        ("rtsp://u:p@bücher.example/キッチン", "rtsp://***@bücher.example/キッチン"),
        ("rtsp://ann:a@b@10.0.0.5/s", "rtsp://***@10.0.0.5/s"),
        ("http://cam/x?pwd=p@ss.word", "http://***"),  # it may be read in two ways
        ("cam:hunter2@10.0.0.5/s", "***@10.0.0.5/s"),
        ("file:///home/ann/a=b.mp4", "file:///home/ann/a=b.mp4"),
        ("/videos/a=b@c.mp4", "/videos/a=b@c.mp4"),
        ("webcam:0", "webcam:0"),
    ],
)  # fmt: skip
def test_what_is_shown(url: str, shown: str) -> None:
    assert redact(url) == shown


@pytest.mark.parametrize("secret", ["deadbeefcafe1234", "0123456789abcdef0123456789abcdef", "sk-live-ab12cd34ef56"])
def test_a_key_in_a_path_is_starred(secret: str) -> None:
    assert redact(f"http://cam/hook/{secret}/live") == "http://cam/hook/***/live"


@pytest.mark.parametrize(
    "url", ["ann:hunter2@cam/x", "//ann:hunter2@cam/x", "rtsp:ann:hunter2@cam", "rtsp:\\\\ann:hunter2@cam"]
)
def test_settings_star_addresses_whose_scheme_is_wrong(url: str) -> None:
    shown = effective(Settings.model_validate({"cameras": {"door": {"url": url}}}))["cameras"]["door"]["url"]
    assert SECRET not in shown
    assert shown.endswith("cam/x" if url.endswith("/x") else "cam")


@given(
    st.text(st.characters(codec="ascii", exclude_categories=["Cc", "Zs"]), min_size=1, max_size=12),
    st.text(st.characters(codec="ascii", exclude_categories=["Cc", "Zs"]), min_size=1, max_size=12),
)
def test_no_password_breaks_out(before: str, after: str) -> None:
    """Whatever stands around a secret in a password, unescaped."""
    assert "HUNTER" not in redact(f"rtsp://ann:{before}HUNTER{after}@10.0.0.5:554/live")
    assert "HUNTER" not in redact_text(f"failed: rtsp://ann:{before}HUNTER{after}@10.0.0.5:554/live")


def test_a_password_that_cuts_its_address_short_is_explained() -> None:
    for url in ("rtsp://a:b#c@h/x", "rtsp://a:b/c@h/x", "rtsp://a:1?c@h/x", "rtsp://a:b@c@h/x"):
        assert hint(url) == HINT
    for url in ("rtsp://a:b%23c@h/x", "rtsp://h/x", "/videos/a@b.mp4", "file:///a@b.mp4"):
        assert hint(url) == ""
    with pytest.raises(ConfigError, match="write %40") as refused:
        load_settings(None, environ={}, overrides={"cameras": {"gate": {"url": "rtsp://ann:hunter2#x@gate/1"}}})
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "cameras: {gate: {url: 'ftp://ann:hunter2@gate/1'}}",
        "cameras: {gate: {url: ['rtsp://ann:hunter2@gate/1']}}",
        "cameras: {gate: 'rtsp://ann:hunter2@gate/1'}",
        "cameras: {gate: {rate_hz: 'rtsp://ann:hunter2@gate/1'}}",
        "cameras: {'rtsp://ann:hunter2@gate/1': {}}",
        "'rtsp://ann:hunter2@gate/1': 3",
        "mqtt: {url: 'mqtt://ann:hunter2@broker'}",
        "mqtt: {password: [hunter2]}",
        "mqtt: {password: *hunter2}",
        "mqtt: {password: !hunter2}",
        "mqtt: {password: @hunter2}",
        "webhooks: {a: {url: 'http://ann:hunter2@h/'}}",
        "answerer: {kind: openai, model: m, base_url: 'http://h/v1?key=hunter2'}",
        "security: {tokens: [{name: a, scopes: [ask], token: hunter2}]}",
    ],
)
def test_no_mistake_in_a_file_tells_a_secret(tmp_path: Path, text: str) -> None:
    path = tmp_path / "vilamp.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_settings(path, environ={})
    assert SECRET not in str(refused.value)


async def test_an_agent_with_secrets_everywhere_tells_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    usable = [PLANTED[0], PLANTED[4], PLANTED[6], PLANTED[10], PLANTED[16]]
    cameras = {f"c{number}": {"url": url} for number, url in enumerate(usable)}
    async with served(tmp_path, cameras=cameras) as site:
        said = ""
        async with httpx.AsyncClient(base_url=site.url, headers=site.headers(), timeout=30) as http:
            async with asyncio.timeout(60):
                while len([None for each in (await http.get("/v1/cameras")).json()["data"] if each["problem"]]) < len(
                    usable
                ):
                    await asyncio.sleep(0.05)
            for path in ("/v1/cameras", "/readyz", "/metrics", "/v1/models", "/v1/memory", "/v1/rules"):
                said += (await http.get(path)).text
        logging.getLogger("libav").error("[http] Failed to resolve %s", usable[0])
    said += "\n".join(map(JsonLines().format, caplog.records))
    assert "127.0.0.1:9" in said
    assert SECRET not in said


def test_check_config_shows_none(tmp_path: Path) -> None:
    path = tmp_path / "vilamp.json"
    usable = [url for url in PLANTED if "pa/" not in url and "pa?" not in url and "pa#" not in url]
    cameras = {f"c{number}": {"url": url, "recorder_url": "http://h/?t=hunter2"} for number, url in enumerate(usable)}
    path.write_text(json.dumps({"cameras": cameras, "mqtt": {"user": "ann", "password": SECRET}}))
    ran = vilamp("check-config", str(path))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.count("127.0.0.1:9") >= len(usable) - 3
    assert SECRET not in ran.stdout


def test_fields_of_a_log_line_tell_none() -> None:
    nested = {"urls": [PLANTED[0]], PLANTED[1]: (PLANTED[2],)}
    record = logging.makeLogRecord({"msg": "failed %s", "args": (PLANTED[3],), "name": "x", "levelname": "ERROR"})
    vars(record).update(url=PLANTED[4], nested=nested, path=Path("rtsp://u:hunter2@h"))
    try:
        raise ValueError(PLANTED[5])
    except ValueError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    assert SECRET not in JsonLines().format(record)
