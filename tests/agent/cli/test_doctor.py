"""`vilamp doctor` against real cameras, servers and brokers: each line is right, and the exit code says so."""

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.cli.setup.look import Look, camera_finding, look_at
from agent.settings.settings import CameraSettings
from tests.support.agents import checkpoint, served
from tests.support.network import free_port
from tests.support.processes import vilamp
from tests.support.rtsp import rtsp_server
from tests.support.vlm_server import Spy, spying
from tests.support.waiting import until

Found = dict[str, dict[str, Any]]


def written(folder: Path, **settings: Any) -> Path:
    """Write a configuration with the tiny checkpoint and a free port, and return its path."""
    given = {"data_dir": str(folder / "data"), "port": free_port(), "model": {"path": str(checkpoint())}, **settings}
    path = folder / "vilamp.yaml"
    path.write_text(yaml.safe_dump(given))
    return path


@pytest.fixture
def spy() -> Iterator[Spy]:
    with spying() as spy:
        yield spy


async def doctor(config: Path) -> tuple[int, Found]:
    """Run the command in a process. Return its exit code and the findings by part."""
    import asyncio

    ran = await asyncio.to_thread(vilamp, "doctor", "--json", "--config", str(config))
    assert ran.stdout, ran.stderr
    told = json.loads(ran.stdout)
    assert told["ok"] == (ran.returncode == 0)
    return ran.returncode, {each["part"]: each for each in told["findings"]}


async def test_every_part_of_a_sound_set_up_is_ok(tmp_path: Path) -> None:
    with spying() as spy:
        async with rtsp_server(rate_hz=15.0) as camera:
            answerer = {"kind": "openai", "base_url": spy.url(), "model": "sees"}
            config = written(tmp_path, cameras={"gate": {"url": camera.url}, "robot": {}}, answerer=answerer)
            code, found = await doctor(config)
    assert code == 0, found
    gate = found["camera gate"]
    assert gate["level"] == "ok"
    assert gate["words"].startswith("h264, 320x240") or "h264" in gate["words"]
    rate = float(gate["words"].split(" frames/s")[0].rsplit(" ", 1)[1])
    assert 8 < rate < 22
    assert "clock within" in gate["words"]
    assert "waits for a publisher at /whip/robot" in found["camera robot"]["words"]
    assert found["answerer"]["level"] == found["encoder"]["level"] == found["disk"]["level"] == "ok"
    assert "tools: yes" in found["answerer"]["words"]
    assert "ms a frame" in found["encoder"]["words"]
    assert "remembers nothing yet, will reach" in found["memory gate"]["words"]


async def test_what_does_not_work_is_an_error_with_advice(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = written(
            tmp_path,
            port=taken.getsockname()[1],
            cameras={"gate": {"url": f"rtsp://ann:secret@127.0.0.1:{free_port()}/live"}},
            answerer={"kind": "openai", "base_url": f"http://127.0.0.1:{free_port()}/v1", "model": "any"},
            mqtt={"url": f"mqtt://127.0.0.1:{free_port()}"},
            model={"path": str(tmp_path)},
        )
        code, found = await doctor(config)
    assert code == 1
    for part in ("camera gate", "answerer", "mqtt", "encoder", "port"):
        assert found[part]["level"] == "error", found[part]
        assert found[part]["advice"], part
    assert "secret" not in json.dumps(found)
    assert "refused" in found["camera gate"]["words"]


async def test_a_model_that_is_not_there_is_named_beside_those_that_are(tmp_path: Path) -> None:
    with spying() as spy:
        answerer = {"kind": "openai", "base_url": spy.url(), "model": "qwen2.5vl:3b"}
        code, found = await doctor(written(tmp_path, answerer=answerer))
    assert code == 1
    assert "has no model qwen2.5vl:3b; it lists any, sees" in found["answerer"]["words"]
    assert found["cameras"]["level"] == "warning"


async def test_a_model_without_eyes_is_an_error(tmp_path: Path) -> None:
    with spying() as spy:
        answerer = {"kind": "openai", "base_url": spy.url(), "model": "any"}
        code, found = await doctor(written(tmp_path, answerer=answerer))
    assert code == 1
    assert "the model 'any' does not see" in found["answerer"]["words"]


async def test_a_running_agent_is_asked_and_agrees_with_readyz(tmp_path: Path, spy: Spy) -> None:
    async with rtsp_server() as camera:
        cameras = {"gate": {"url": camera.url}, "yard": {}}
        answerer = {"kind": "openai", "base_url": spy.url(), "model": "sees"}
        async with served(tmp_path / "data", cameras=cameras, answerer=answerer) as site:
            await until(lambda: site.agent.cameras.state("gate") == "live")
            await until(lambda: site.agent.answerer.capabilities is not None)
            port = int(site.url.rsplit(":", 1)[1])
            _, found = await doctor(written(tmp_path, port=port, cameras=cameras))
            assert camera.num_connections == 1  # it did not connect a second time
    assert found["agent"]["words"].startswith("running")
    assert found["camera gate"]["level"] == "ok"
    assert found["camera gate"]["words"].startswith("h264")
    assert "JSON schema: yes" in found["answerer"]["words"]
    assert "nobody publishes to it" in found["camera yard"]["words"]
    assert found["camera yard"]["level"] == "error"


async def test_a_camera_whose_clock_is_wrong_is_told() -> None:
    async with rtsp_server(sender_offset_s=-3600.0) as camera:
        settings = CameraSettings(url=camera.url)
        look = await look_at("gate", settings)
    assert look.picture is not None
    found = camera_finding("gate", settings, look, 5.0)
    assert (found.check, found.level) == ("clock", "warning")
    assert "59 min" in found.words or "1 h" in found.words
    assert "behind this machine's" in found.words


async def test_a_file_and_a_missing_file_are_looked_at(tmp_path: Path) -> None:
    missing = await look_at("gate", CameraSettings(url=str(tmp_path / "gate.mp4")))
    assert "no such file" in missing.problem
    assert missing.picture is None


@pytest.mark.parametrize(
    ("look", "level", "words"),
    [
        (Look(codec="hevc", width=640, height=480, rate_hz=0.2), "warning", "0.2 frames/s"),
        (Look(codec="hevc", width=640, height=480, rate_hz=25.0, sender_clock_s=0.3), "ok", "clock within 0.3 s"),
        (Look(codec="h264", rate_hz=25.0), "ok", "no clock of its own"),
        (Look(problem="rtsp://gate: 401 Unauthorized"), "error", "401"),
    ],
)
def test_words_of_a_camera(look: Look, level: str, words: str) -> None:
    found = camera_finding("gate", CameraSettings(url="rtsp://gate/1"), look, 5.0)
    assert found.level == level
    assert words in found.words
    assert bool(found.advice) == (level != "ok")


async def test_lines_for_people(tmp_path: Path) -> None:
    config = written(tmp_path, cameras={"robot": {}})
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    ran = vilamp("doctor", "--config", str(config))
    assert ran.returncode == 0, ran.stdout
    assert "ok       camera robot" in ran.stdout
    assert not (tmp_path / "data").exists()  # looking changes nothing
