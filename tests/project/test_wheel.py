"""The wheel: built without network, installed without the source tree, asked one question."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from pathlib import Path

import httpx
import pytest

from model.world.video import write_video

ROOT = Path(__file__).parents[2]
PARTS = ("agent", "memory", "model", "streaming")
PIP = (sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check")


def environment() -> dict[str, str]:
    """Environment variables without settings and without the source tree."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("VILAMP_", "PYTHON"))}
    return {**environ, "OMP_NUM_THREADS": "1"}


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command with that environment."""
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=240, check=False)


def source_files(root: Path) -> set[str]:
    """The files of the packages, relative to `root`."""
    files = (path for part in PARTS for path in (root / part).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix() for path in files if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the project, so that nothing is written into the checkout."""
    copy = tmp_path_factory.mktemp("source")
    for part in PARTS:
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", copy / "dist")
    built = run(*PIP, "wheel", copy, *options, cwd=copy)
    assert built.returncode == 0, built.stderr
    (path,) = (copy / "dist").glob("vilamp_live-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel, and with this environment's dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    done = run(*PIP, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    assert done.returncode == 0, done.stderr
    scheme = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", scheme))
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in sorted(dependencies)))
    return folder / "bin"


def test_the_wheel_has_every_file_of_the_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == source_files(ROOT)
    assert {"agent/page/index.html", "agent/page/style.css", "model/builtin/siglip/config.json"} <= packed


def test_the_installed_program_serves_its_page_and_answers_a_question(installed: Path, tmp_path: Path) -> None:
    where = run(installed / "python", "-c", "import agent; print(agent.__file__)", cwd=tmp_path)
    assert Path(where.stdout.strip()).is_relative_to(installed.parent), where.stderr
    write_video(tmp_path / "gate.mp4", seed=7, minutes=0.5, rate_hz=2, style="fixed")
    (tmp_path / "vilamp.yaml").write_text("port: 0\ndata_dir: data\ncameras: {gate: {url: gate.mp4}}\n")
    command = [installed / "vilamp", "serve", "--config", "vilamp.yaml", "--num-threads", "1"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().removeprefix("ViLaMP Live answers at ").strip()
            assert "<title>" in httpx.get(url, timeout=30).text
            ask = ("ask", "what can you see?", "--json", "--server", url, "--data-dir", "data")
            deadline = time.monotonic() + 120
            while (answered := run(installed / "vilamp", *ask, cwd=tmp_path)).returncode:  # no frame is encoded yet
                assert time.monotonic() < deadline, answered.stderr
        finally:
            server.terminate()
            server.communicate(timeout=30)
    reply = json.loads(answered.stdout)
    assert reply["text"].strip()
    assert reply["citations"][0]["camera"] == "gate"
