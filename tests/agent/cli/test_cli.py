"""The command line in real processes: help, exit codes and one-line errors."""

import importlib.metadata
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from agent.cli.ask import best, server_of, visits_line
from agent.cli.client import Citation, Visit
from agent.cli.common import CliError
from agent.cli.main import main, target
from agent.cli.parser import build_parser, parse
from agent.cli.serve import overrides_of
from agent.settings.settings import Settings
from agent.web.auth import Auth
from tests.support.processes import ROOT, vilamp

HEAVY = ("torch", "transformers", "av", "aiortc", "pydantic", "numpy", "yaml", "rich", "httpx", "starlette", "asyncio")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, agent.cli.main; agent.cli.parser.build_parser().format_help(); "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


COMMANDS = re.findall(r"^    ([a-z-]+)", build_parser().format_help(), re.MULTILINE)


def test_help_names_every_command() -> None:
    ran = vilamp("--help")
    assert (ran.returncode, ran.stdout) == (0, build_parser().format_help())
    assert {"serve", "ask", "replay", "memory", "erase", "export", "rules", "demo", "check-config", "eval"} <= {
        *COMMANDS
    }


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("eval", "eval-questions", "train")])
def test_each_command_has_an_example_that_parses_and_a_function(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([command, "--help"])
    assert ended.value.code == 0
    example = re.search(r"example: vilamp (.+)", " ".join(capsys.readouterr().out.split()))
    assert example
    args = parse(shlex.split(example[1]))
    assert args.command == command
    assert callable(target(args.run))


def test_version_is_the_installed_one() -> None:
    ran = vilamp("--version")
    assert (ran.returncode, ran.stdout) == (0, f"vilamp {importlib.metadata.version('vilamp-live')}\n")


def test_check_config_shows_the_effective_settings(tmp_path: Path) -> None:
    path = tmp_path / "vilamp.yaml"
    path.write_text("port: 9000\ncameras: {gate: {url: 'rtsp://joe:hunter2@gate/1'}}\n")
    ran = vilamp("check-config", str(path), VILAMP_LOG_LEVEL="debug")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(f"OK: {path}\n")
    assert "port: 9000\n" in ran.stdout
    assert "log_level: debug\n" in ran.stdout
    assert "rtsp://***@gate/1" in ran.stdout
    assert "hunter2" not in ran.stdout


def test_check_config_lists_every_mistake(tmp_path: Path) -> None:
    path = tmp_path / "vilamp.yaml"
    path.write_text("prot: 9000\nmodel: {device: tpu}\n")
    ran = vilamp("check-config", str(path))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert f'{path}:1: prot: unknown setting; did you mean "port"?' in ran.stderr
    assert f"{path}:2: model.device: must be" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("args", "code", "complaint"),
    [
        ([], 2, "required: COMMAND"),
        (["dance"], 2, "invalid choice"),
        (["ask"], 2, "required: question"),
        (["ask", "hello?", "--after", "soonish"], 2, '--after: "soonish" is not a time'),
        (["ask", "hello?", "--timezone", "Mars"], 2, "--timezone: "),
        (["ask", "hello?", "--after", "-1h", "--before", "-2h"], 2, "is not before --before"),
        (["ask", "hello?", "--server", "nowhere"], 2, "give a URL such as"),
        (["ask", "hello?", "--server", "http://127.0.0.1:9"], 1, "start one with `vilamp serve`"),
        (["ask", "hello?", "--config", "absent.yaml"], 2, "absent.yaml: cannot be read"),
        (["serve", "--port", "99999"], 2, "command line: port: must be less than or equal to 65535"),
        (["serve", "--tls-cert", "a.pem"], 2, "cert and key come together"),
        (["serve", "--tls", "self-signed", "--tls-cert", "a", "--tls-key", "b"], 2, "give either"),
        (["replay", "absent.mp4"], 1, "absent.mp4"),
        (["replay", "Makefile"], 1, "Makefile"),
        (["replay", "absent.mp4", "--camera", "No Slug"], 2, '"No Slug" cannot be a name'),
        (["model", "check", "absent-folder"], 1, "absent-folder"),
        (["world", "out.mp4", "--minutes", "0"], 2, "--minutes"),
    ],
)
def test_mistakes_give_one_message_and_an_exit_code(
    args: list[str], code: int, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Makefile").write_text("no video")
    try:
        ended = main(args)
    except SystemExit as end:  # argparse's own
        ended = int(end.code or 0)
    output = capsys.readouterr()
    assert ended == code
    assert complaint in output.err
    assert output.out == ""


def test_eval_and_train_parse_their_own_options() -> None:
    for command in ("eval", "train"):
        parsed = parse([command, "--help", "--seeds", "1,2", "word"])
        assert callable(target(parsed.run))
        assert parsed.rest == ["--help", "--seeds", "1,2", "word"]
    with pytest.raises(SystemExit) as ended:
        parse(["ask", "a car?", "--colour", "red"])
    assert ended.value.code == 2
    assert parse(["ask", "a car?", "--after", "-24h"]).after == "-24h"


def test_closed_pipe_is_not_an_error() -> None:
    code = f"{sys.executable} -m agent.cli check-config vilamp.example.yaml | head -1; exit ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_local_server_url_comes_from_the_settings() -> None:
    assert server_of(Settings()) == "http://127.0.0.1:8080"
    assert server_of(Settings(host="0.0.0.0", port=9000)) == "http://127.0.0.1:9000"
    assert server_of(Settings(host="::1")) == "http://[::1]:8080"
    assert server_of(Settings(host="::")) == "http://127.0.0.1:8080"  # listens on both; not every network has IPv6
    assert server_of(Settings.model_validate({"tls": {"self_signed": True}})) == "https://127.0.0.1:8080"


def test_serve_options_become_settings() -> None:
    parsed = build_parser().parse_args(["serve", "--port", "1", "--model", "m", "--tls", "self-signed"])
    assert overrides_of(parsed) == {
        "port": 1,
        "model": {"path": "m"},
        "tls": {"self_signed": True, "cert": None, "key": None},
    }
    with pytest.raises(CliError):
        overrides_of(build_parser().parse_args(["serve", "--tls", "self-signed", "--tls-key", "k"]))


def test_tokens_are_not_sent_to_other_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from agent.cli.ask import connect

    Auth.open(tmp_path)
    settings = Settings(data_dir=tmp_path)
    with connect("http://127.0.0.1:8080", settings) as local, connect("http://cam.example:8080", settings) as remote:
        assert local._http.headers["authorization"].startswith("Bearer vl_")
        assert "authorization" not in remote._http.headers


def test_best_evidence_is_chosen_and_in_time_order() -> None:
    def cited(time: float, score: float, kind: str) -> Citation:
        return Citation(int(time), "gate", time, score, kind, "")

    given = [cited(1, 0.9, "filling"), cited(2, 0.2, "relevant"), cited(3, 0.5, "relevant"), cited(4, 0.1, "recent")]
    assert [each.time for each in best(given, 2)] == [2, 3]
    assert [each.time for each in best(given, 3)] == [2, 3, 4]
    assert [each.time for each in best(given, 9)] == [1, 2, 3, 4]


def test_visits_that_stand_out_are_named_in_one_line() -> None:
    def stay(start: float, length: float, strength: float, camera: str = "gate", is_clear: bool = True) -> Visit:
        return Visit(camera, start, start, start + length, 0.1, strength, is_clear, int(start))

    ten = 1795341600.0  # 2026-11-22 10:00:00 UTC
    two = [stay(ten, 5, 9), stay(ten + 60, 0, 8), stay(ten + 90, 5, 3, is_clear=False)]
    assert visits_line(two, "UTC") == "Stood out: 10:00:00-10:00:05, 10:01:00"
    assert visits_line(two[2:], "UTC") == ""
    several = [*two, stay(ten - 36000 - 5, 10, 9, "yard")]
    assert visits_line(several, "UTC") == (
        "Stood out: yard 2026-11-21 23:59:55-2026-11-22 00:00:05, gate 2026-11-22 10:00:00-10:00:05, "
        "gate 2026-11-22 10:01:00"
    )
    many = [stay(ten + 60 * n, 5, 20 - n) for n in range(10)]
    assert visits_line(many, "UTC").endswith("10:07:00-10:07:05 and 2 more")
