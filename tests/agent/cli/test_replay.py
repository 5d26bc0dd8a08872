"""`vilamp replay`, `serve` and `ask` end to end with a tiny checkpoint and a real video."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.camera_names import camera_name
from agent.cli.main import main
from agent.cli.replay import LEDGER_FILE
from agent.settings.types import check_slug
from tests.support.clips import write_timed, write_video
from tests.support.processes import ROOT, vilamp
from tests.support.tiny import make_checkpoint

NUM_SECONDS = 6


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


class Ran(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


Replay = Callable[..., Ran]


@pytest.fixture
def replay(checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Replay:
    """The command in this process, which has torch loaded already: six seconds less each."""
    for name in [name for name in os.environ if name.startswith("VILAMP_")]:
        monkeypatch.delenv(name)

    def run(data: Path, video: Path, *args: str) -> Ran:
        capsys.readouterr()
        code = main(["replay", str(video), "--model", str(checkpoint), "--data-dir", str(data), *args])
        return Ran(code, *capsys.readouterr())

    return run


@contextmanager
def serving(checkpoint: Path, data: Path, *args: str) -> Iterator[str]:
    """A real server process over `data`; its URL."""
    command = [
        sys.executable,
        "-m",
        "agent.cli",
        "serve",
        "--port",
        "0",
        "--model",
        str(checkpoint),
        "--data-dir",
        str(data),
    ]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("VILAMP_")}
    process = subprocess.Popen(
        [*command, *args], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=clean
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().removeprefix("ViLaMP Live answers at ").strip()
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_replay_indexes_once_and_asks(replay: Replay, tmp_path: Path) -> None:
    video, data = write_video(tmp_path / "My Gate.mp4"), tmp_path / "data"
    start = "2026-11-22T10:00:00Z"
    first = replay(data, video, "--ask", "a red car?", "--json", "--start", start, "--timezone", "UTC")
    assert first.returncode == 0, first.stderr
    reply = json.loads(first.stdout)
    assert reply["num_frames"] == NUM_SECONDS
    assert {each["camera"] for each in reply["citations"]} == {"my-gate"}
    assert reply["citations"][0]["local_time"].startswith("2026-11-22 10:00:0")
    assert {"embed", "select", "look", "first_token", "total"} <= reply["timings_ms"].keys()
    twice = replay(data, video, "--ask", "a red car tomorrow?", "--ask", "a red car?", "--start", start)
    assert (twice.returncode, "in the future" in twice.stderr, "searched" in twice.stdout) == (1, True, True)
    again = replay(data, video, "--start", start, "--timezone", "Europe/Zurich")
    assert again.returncode == 0
    assert f"my-gate: already indexed, {NUM_SECONDS} frames from 2026-11-22 11:00:00 CET" in again.stdout


def test_interrupted_replay_continues(replay: Replay, tmp_path: Path) -> None:
    video, data = write_video(tmp_path / "gate.mp4"), tmp_path / "data"
    assert replay(data, video).returncode == 0
    ledger = json.loads((data / LEDGER_FILE).read_text())
    ledger["gate"]["complete"] = False  # as a kill during indexing leaves it
    (data / LEDGER_FILE).write_text(json.dumps(ledger))
    again = replay(data, video)
    assert again.returncode == 0
    assert f"gate: {NUM_SECONDS} frames" in again.stdout


def test_replay_in_its_own_process(checkpoint: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "gate.mp4")
    ran = vilamp("replay", str(video), "--model", str(checkpoint), "--data-dir", str(tmp_path / "d"), "--ask", "a car?")
    assert ran.returncode == 0
    assert f"gate: {NUM_SECONDS} frames" in ran.stdout
    assert "> a car?" in ran.stdout
    assert "ms: queue" in ran.stdout
    assert "indexing" in ran.stderr  # the progress bar


def test_drawn_world_can_be_written_and_replayed(replay: Replay, tmp_path: Path) -> None:
    video = tmp_path / "world.mp4"
    written = vilamp("world", str(video), "--seed", "7", "--minutes", "0.4", "--fps", "2", "--style", "fixed")
    assert written.returncode == 0, written.stderr
    assert written.stdout.strip() == f"{video} and {tmp_path / 'world.json'}"
    assert json.loads((tmp_path / "world.json").read_text())["seed"] == 7
    assert "world: 24 frames" in replay(tmp_path / "data", video).stdout
    refused = vilamp("world", str(tmp_path / "world.txt"))
    assert (refused.returncode, "must end in .mp4" in refused.stderr) == (1, True)


def test_each_history_belongs_to_one_video(replay: Replay, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert replay(data, write_video(tmp_path / "a.mp4"), "--camera", "gate").returncode == 0
    other = replay(data, write_video(tmp_path / "b.mp4"), "--camera", "gate")
    assert other.returncode == 2
    assert "give another --camera" in other.stderr


def test_truncated_video_is_kept_with_a_warning(replay: Replay, tmp_path: Path) -> None:
    video = write_video(tmp_path / "cut.avi", num_seconds=12)
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) // 2])
    ran = replay(tmp_path / "data", video)
    assert ran.returncode == 0, ran.stderr
    assert "warning: " in ran.stderr
    assert "cut: " in ran.stdout
    assert "Traceback" not in ran.stderr


def test_ask_uses_the_local_server_token_and_certificate(replay: Replay, checkpoint: Path, tmp_path: Path) -> None:
    video, data = write_video(tmp_path / "gate.mp4"), tmp_path / "data"
    assert replay(data, video).returncode == 0
    with serving(checkpoint, data, "--tls", "self-signed") as url:
        assert url.startswith("https://127.0.0.1:")
        ask = ["ask", "a red car?", "--server", url, "--data-dir", str(data)]
        sheet = tmp_path / "sheet.png"
        answered = vilamp(*ask, "--after", "-1h", "--sheet", str(sheet), "--timezone", "Europe/Zurich")
        assert answered.returncode == 0, answered.stderr
        assert f"of {NUM_SECONDS} frames (times in Europe/Zurich)" in answered.stdout
        assert answered.stdout.startswith("searched gate, since ")
        in_words = vilamp(*ask, "--after", "half an hour ago")
        assert in_words.returncode == 0, in_words.stderr
        assert in_words.stdout.partition("\n")[0].startswith("searched gate, since ")
        by_question = vilamp("ask", "a red car in the last hour?", *ask[2:])
        assert by_question.stdout.startswith("searched gate, since "), by_question.stderr
        assert "total " in answered.stdout
        assert sheet.read_bytes().startswith(b"\x89PNG")
        complaints = {
            ("--camera", "yard"): "no camera 'yard'",
            ("--before", "-30d"): "Nothing is remembered in that window",
        }
        for options, complaint in complaints.items():
            refused = vilamp(*ask, *options)
            assert (refused.returncode, refused.stdout) == (1, "")
            assert complaint in refused.stderr
        other_tokens = vilamp("ask", "?", "--server", url, "--data-dir", str(data), VILAMP_TOKEN="wrong")
        assert "set VILAMP_TOKEN" in other_tokens.stderr
        untrusted = vilamp("ask", "?", "--server", url, "--data-dir", str(tmp_path / "elsewhere"))
        assert "certificate is not trusted" in untrusted.stderr
        busy = replay(data, video)
        assert busy.returncode == 1
        assert "in use by another process" in busy.stderr


def test_serve_prints_why_it_cannot_start(checkpoint: Path, tmp_path: Path) -> None:
    data = ["--data-dir", str(tmp_path / "data")]
    absent = vilamp("serve", "--port", "0", "--model", str(tmp_path / "absent"), *data)
    assert (absent.returncode, "absent" in absent.stderr, "Traceback" in absent.stderr) == (1, True, False)
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = vilamp("serve", "--port", str(other.getsockname()[1]), "--model", str(checkpoint), *data)
    assert taken.returncode == 1
    assert "choose another --host or --port" in taken.stderr


@pytest.mark.parametrize(
    ("stem", "camera"),
    [
        ("My Gate", "my-gate"),
        ("12:30", "12-30"),
        ("Камера у ворот", "kamera-u-vorot"),
        ("Камера 1", "kamera-1"),
        ("カメラ", "kamera"),
        ("Cour d'été (nord)", "cour-d-ete-nord"),
        ("status", "status-video"),
        ("!!!", "video"),
        ("_x_", "x"),
        ("x" * 80, "x" * 64),
    ],
)
def test_camera_names_from_file_names(stem: str, camera: str) -> None:
    assert camera_name(stem) == camera


@given(st.text(max_size=100), st.sets(st.sampled_from(["video", "a", "a-2", "1", "x" * 64]), max_size=5))
def test_camera_names_are_valid_and_unique(stem: str, taken: set[str]) -> None:
    name = camera_name(stem, taken)
    assert check_slug(name) == name
    assert name not in taken
    assert camera_name(stem, {*taken, name}) not in {*taken, name}


def test_files_of_the_same_name_become_two_cameras(replay: Replay, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for folder in ("monday", "tuesday"):
        (tmp_path / folder).mkdir()
        write_video(tmp_path / folder / "Камера 1.mp4")
    assert "kamera-1: 6 frames" in replay(data, tmp_path / "monday" / "Камера 1.mp4").stdout
    assert "kamera-1-2: 6 frames" in replay(data, tmp_path / "tuesday" / "Камера 1.mp4").stdout
    assert "kamera-1: already indexed" in replay(data, tmp_path / "monday" / "Камера 1.mp4").stdout
    assert "kamera-1-2: already indexed" in replay(data, tmp_path / "tuesday" / "Камера 1.mp4").stdout
    (data / LEDGER_FILE).unlink()  # the memory alone knows of them now
    assert "kamera-1-3: 6 frames" in replay(data, tmp_path / "monday" / "Камера 1.mp4").stdout


@pytest.mark.parametrize("name", ["12:30.mp4", "rtsp:x.mp4", "-x.mp4", "a%20b.mp4", "b\udcff.mp4", "file:y.mp4"])
def test_files_with_odd_names_are_replayed(
    replay: Replay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_video(tmp_path / "plain.mp4").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    ran = replay(tmp_path / "data", Path(name))
    assert ran.returncode == 0, ran.stderr
    assert ": 6 frames" in ran.stdout
    (tmp_path / name).write_bytes(b"this is no film")
    broken = replay(tmp_path / "data", tmp_path / name)
    assert (broken.returncode, "cannot be read as video" in broken.stderr) == (1, True)


def test_repaired_timestamps_are_reported(replay: Replay, tmp_path: Path) -> None:
    """Two recordings in one file, the second a day later by its timestamps."""
    first = write_timed(tmp_path / "a.ts", [index / 4 for index in range(16)])
    second = write_timed(tmp_path / "b.ts", [86_400 + index / 4 for index in range(16)])
    (tmp_path / "day.ts").write_bytes(first.read_bytes() + second.read_bytes())
    os.utime(tmp_path / "day.ts", (1_795_000_000, 1_795_000_000))
    ran = replay(tmp_path / "data", tmp_path / "day.ts")
    assert ran.returncode == 0, ran.stderr
    assert "warning: " in ran.stderr
    assert "timestamps jump" in " ".join(ran.stderr.split())
    assert "day: 8 frames, 7" in ran.stdout
    start = json.loads((tmp_path / "data" / LEDGER_FILE).read_text())["day"]["start"]
    assert start == pytest.approx(1_795_000_000 - 8, abs=0.5)  # it ends when the file was written
