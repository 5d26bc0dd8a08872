"""The installed packages, the built-in checkpoint, the pinned versions and the targets of make."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILTIN = ROOT / "model" / "builtin"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_command_and_the_extras() -> None:
    assert PROJECT["project"]["scripts"] == {"vilamp": "agent.cli.main:main"}
    assert {"gpu", "dev"} <= PROJECT["project"]["optional-dependencies"].keys()


def test_torch_is_pinned_first_and_everything_else_is_pinned() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0].startswith("torch==")
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[^ ]+", line) for line in lines)
    pinned = {_name(line) for line in lines}
    project = PROJECT["project"]
    wanted = {_name(each) for each in [*project["dependencies"], *project["optional-dependencies"]["dev"]]}
    assert wanted <= pinned


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9_.-]+", requirement)
    assert match
    return match.group().lower().replace("_", "-")


def test_built_in_checkpoint_is_small_and_has_the_documented_sizes() -> None:
    from model.video_model import VideoModel

    files = [path for path in BUILTIN.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40e6
    assert {path.suffix for path in files} <= {".json", ".safetensors"}
    depths = {len(path.relative_to(BUILTIN).parts) for path in files}
    assert depths <= {1, 2}  # as deep as the package-data patterns match
    model = VideoModel.load(BUILTIN, num_threads=1)
    assert model.info.patches_per_frame >= 64
    assert model.info.embedding_dim >= 128
    assert model.network.config.vision.image.image_size >= 96
    assert "does not know" in model.info.card


def make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run make without the variables that an outer make passes on."""
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "PARITY_DIR")}
    return subprocess.run(["make", *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_make_help_lists_the_targets() -> None:
    listed = re.findall(r"^make ([a-z-]+) +\S", make("-s", "help").stdout, re.MULTILINE)
    assert {"demo", "run", "lint", "check", "test", "hardening", "parity", "bench", "train", "clean"} <= set(listed)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_make_parity_without_recordings_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "clone").mkdir()
    shutil.copy(ROOT / "Makefile", tmp_path / "clone")
    ran = make("parity", folder=tmp_path / "clone")
    assert ran.returncode != 0
    assert "no recordings of the published code in ../shared/parity" in ran.stdout
    assert "PARITY_DIR=<folder>" in ran.stdout
