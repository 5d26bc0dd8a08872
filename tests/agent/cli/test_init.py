"""`vilamp init` with a real RTSP camera and a vision server: one command, at most three keystrokes, a first answer."""

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agent.cli.common import CliError
from agent.cli.parser import parse
from agent.cli.setup.config_text import Choice, config_text
from agent.cli.setup.init import _cameras, _named, _try_out, run
from agent.cli.setup.onvif import OnvifCamera
from agent.cli.setup.servers import PORTS, Server, ask_server, find_servers
from agent.settings.source import load_settings
from tests.support.encoders import make_clip
from tests.support.network import free_port
from tests.support.processes import ROOT, vilamp
from tests.support.rtsp import rtsp_server
from tests.support.streams import serve
from tests.support.vlm_server import spying


def init(folder: Path, *options: str, typed: str = "", timeout_s: float = 200) -> subprocess.CompletedProcess[str]:
    """Run `vilamp init` with what a user types."""
    command = [sys.executable, "-m", "agent.cli", "init", str(folder / "vilamp.yaml"), *options]
    env = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run(
        command, cwd=ROOT, env=env, input=typed, capture_output=True, text=True, timeout=timeout_s, check=False
    )


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip"))


async def test_one_command_and_one_keystroke_to_the_first_answer(tmp_path: Path, encoder: Path) -> None:
    with spying() as spy:
        async with rtsp_server() as camera:
            options = ["--camera", f"gate={camera.url}", "--server", f"127.0.0.1:{spy.port}", "--model", "sees"]
            options += ["--encoder", str(encoder), "--port", str(free_port())]
            ran = await asyncio.to_thread(init, tmp_path, *options, typed="\n")
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert "sees on a server at" in ran.stdout
        assert "camera gate: h264" in ran.stdout
        assert "JSON schema: yes" in ran.stdout
        assert ", the newest" in ran.stdout
        sent = [each for each in spy.seen() if each["model"] == "sees"]
        assert any(part["type"] == "image_url" for part in sent[-1]["body"]["messages"][-1]["content"])
    written = tmp_path / "vilamp.yaml"
    assert written.stat().st_mode & 0o077 == 0
    settings = load_settings(written, environ={})
    assert settings.cameras["gate"].url == camera.url
    assert (settings.answerer.kind, settings.answerer.model) == ("openai", "sees")
    assert not list(tmp_path.glob("*.log"))
    again = init(tmp_path, "--yes")
    assert again.returncode == 2
    assert "is there already" in again.stderr


async def test_a_camera_that_is_away_is_written_and_told(tmp_path: Path, encoder: Path) -> None:
    with spying() as spy:
        url = f"rtsp://127.0.0.1:{free_port()}/live"
        options = [
            "--camera",
            url,
            "--server",
            f"127.0.0.1:{spy.port}",
            "--model",
            "sees",
            "--encoder",
            str(encoder),
            "--yes",
        ]
        ran = await asyncio.to_thread(init, tmp_path, *options)
    assert ran.returncode == 1
    assert "refused" in ran.stdout
    text = (tmp_path / "vilamp.yaml").read_text()
    assert yaml.safe_load(text)["cameras"] == {"camera-1": {"url": url}}
    assert "refused" in text  # as a comment beside the camera


def test_wrong_input_is_refused_before_anything_is_looked_for(tmp_path: Path) -> None:
    for options, words in ((["--camera", "gate=ftp://x/y"], "cannot open"), (["--camera", "rtsp://"], "no valid host")):
        ran = vilamp("init", str(tmp_path / "a.yaml"), "--yes", *options)
        assert ran.returncode == 2, ran.stdout
        assert words in ran.stderr
    assert not list(tmp_path.glob("*.yaml"))


def test_without_a_server_it_says_what_to_install(tmp_path: Path) -> None:
    ran = init(tmp_path, "--yes", "--model", "no-such-model", "--camera", "rtsp://127.0.0.1:9/x")
    assert ran.returncode == 1
    assert "no server with a vision model no-such-model was found: start one, such as Ollama" in ran.stderr
    assert not (tmp_path / "vilamp.yaml").exists()


async def test_without_a_vision_server_answers_name_times(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("agent.cli.setup.servers.PORTS", {})  # whatever runs on this machine
    monkeypatch.setattr("agent.cli.setup.servers.find_servers.__defaults__", ((),))
    async with rtsp_server() as camera:
        options = ["--camera", f"gate={camera.url}", "--encoder", str(encoder), "--yes", "--port", str(free_port())]
        (tmp_path / "vilamp.log").write_text("of another program")
        (tmp_path / "vilamp.yaml").touch(0o644)
        options.append("--force")
        args = parse(["init", str(tmp_path / "vilamp.yaml"), *options, "--data-dir", str(tmp_path / "data")])
        code = await asyncio.to_thread(run, args)
    said = capsys.readouterr().out
    assert "none with a vision model" in said
    assert load_settings(tmp_path / "vilamp.yaml", environ={}).answerer.kind == "none"
    assert code == 0, said
    assert (tmp_path / "vilamp.yaml").stat().st_mode & 0o077 == 0  # also where a file of more readers was there
    assert {each.name: each.read_text() for each in tmp_path.glob("*.log")} == {"vilamp.log": "of another program"}


def test_the_log_of_an_agent_that_does_not_start_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "vilamp.yaml"
    path.write_text(f"data_dir: {tmp_path / 'data'}\nmodel: {{path: /no/model}}\n")
    assert not _try_out(path, Choice({}, {}, "", "", "x", 8080), "gate", "?")
    (log,) = tmp_path.glob("*.log")
    assert log.stat().st_mode & 0o077 == 0
    assert f"the agent's log: {log}" in capsys.readouterr().err


def test_a_device_with_a_bad_address_is_told_and_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = "rtsp://ann:s3cret@10.0.0.7:port/a b", "rtsp://ann:s3cret@10.0.0.8/a"

    async def found(*given: object) -> list[OnvifCamera]:
        return [OnvifCamera("10.0.0.7", bad), OnvifCamera("10.0.0.8", good)]

    monkeypatch.setattr("agent.cli.setup.init.find_onvif", found)
    assert _cameras(parse(["init", "--onvif", "--yes"]), []) == {"camera-1": good}
    said = capsys.readouterr().out
    assert "10.0.0.7: Value error, an address has no spaces" in said
    assert "s3cret" not in said
    for wrong in (bad, "rtsp://ann:s3cret@[zz]/a"):
        with pytest.raises(CliError) as refused:
            _named(wrong)
        assert "s3cret" not in str(refused.value)


async def test_servers_are_found_with_their_models() -> None:
    with spying() as spy:
        closed = f"127.0.0.1:{free_port()}"
        (server,) = await find_servers([f"127.0.0.1:{spy.port}", closed, spy.url()], ports=[])
    assert isinstance(server, Server)
    assert server.base_url == spy.url()
    assert [model.name for model in server.vision_models()] == ["any", "sees"]


async def ask(app: object, base_url: str = "http://127.0.0.1:11434/v1") -> Server | None:
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport) as http:
        return await ask_server(http, base_url)


def replies(**routes: object) -> object:
    async def answer(request: Request) -> Response:
        told = routes.get(request.url.path.strip("/").replace("/", "_"))
        if callable(told):
            told = told(await request.json())
        return JSONResponse(told, 404 if told is None else 200)

    return Starlette(routes=[Route("/{rest:path}", answer, methods=["GET", "POST"])])


LISTED = {"object": "list", "data": [{"id": "qwen2.5vl:3b"}, {"id": "llama3.2:3b"}]}


async def test_ollama_says_which_models_see() -> None:
    def show(asked: dict[str, str]) -> dict[str, object]:
        sees = "vl" in asked["model"]
        return {"capabilities": ["completion", *(["vision"] if sees else [])], "model_info": {"x.context_length": 8192}}

    server = await ask(replies(v1_models=LISTED, api_show=show))
    assert server is not None
    assert server.kind == "Ollama"
    assert [model.sees for model in server.models] == [True, False]
    assert [model.name for model in server.vision_models()] == ["qwen2.5vl:3b"]
    assert server.models[0].context == 8192


async def test_lm_studio_and_llama_cpp_say_what_they_see() -> None:
    studio = {"data": [{"id": "qwen2.5vl:3b", "type": "llm"}, {"id": "llama3.2:3b", "type": "vlm"}]}
    server = await ask(replies(v1_models=LISTED, api_v0_models=studio), "http://127.0.0.1:1234/v1")
    assert server is not None
    assert (server.kind, [model.sees for model in server.models]) == ("LM Studio", [False, True])
    props = {"modalities": {"vision": False, "audio": False}}
    server = await ask(replies(v1_models=LISTED, props=props), "http://127.0.0.1:8080/v1")
    assert server is not None
    assert (server.kind, server.vision_models()) == ("llama.cpp", [])


async def test_other_servers_are_judged_by_the_model_names() -> None:
    server = await ask(replies(v1_models=LISTED), "http://127.0.0.1:8000/v1")
    assert server is not None
    assert (server.kind, [model.sees for model in server.models]) == (PORTS[8000], [True, None])


@pytest.mark.parametrize("told", [None, [], {"data": "x"}, {"data": [{"id": "vilamp", "owned_by": "vilamp"}]}])
async def test_what_is_no_such_server_is_passed_over(told: object) -> None:
    assert await ask(replies(v1_models=told)) is None


async def test_the_key_goes_to_the_server_it_was_given_for_only() -> None:
    sent: list[str | None] = []

    async def models(request: Request) -> Response:
        sent.append(request.headers.get("authorization"))
        return JSONResponse(LISTED)

    async with serve(Starlette(routes=[Route("/v1/models", models)])) as base:
        for host in (f"{base}/v1", f"{base}/v1/", base.removeprefix("http://")):
            (found,) = await find_servers([host], ports=[], key="secret")
            assert found.base_url == f"{base}/v1"
    assert sent == ["Bearer secret", "Bearer secret", None]
    server = await ask(replies(v1_models=LISTED), "https://vlm.example/v1")
    assert server is not None
    assert server.kind == "a server"


def test_a_cloud_is_written_with_key_and_leave_to_send_pictures(tmp_path: Path) -> None:
    choice = Choice({"gate": "rtsp://gate/1", "robot": ""}, {}, "https://vlm.example/v1", "m", "org/x", 8080)
    far = config_text(replace(choice, far=True, key_file=str(tmp_path / "key")))
    path = tmp_path / "vilamp.yaml"
    path.write_text(far)
    settings = load_settings(path, environ={})
    assert {each.egress for each in settings.cameras.values()} == {"allowed"}
    assert settings.answerer.api_key_file == tmp_path / "key"


def test_names_and_addresses_cannot_break_the_file(tmp_path: Path) -> None:
    url = 'rtsp://ann:p"w#d%20@gate/a: b'.replace(" ", "%20")
    choice = Choice({"gate": url, "robot": ""}, {"gate": "h264\n  evil: 1"}, "http://h/v1", 'm"x', "builtin-x", 8081)
    read = yaml.safe_load(config_text(choice))
    assert read["cameras"] == {"gate": {"url": url}, "robot": {}}
    assert read["answerer"]["model"] == 'm"x'
    assert read["port"] == 8081
