"""`make real`: from RTSP cameras to answers and a contact sheet, without anything that a fresh machine lacks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.support.encoders import make_clip
from tests.support.processes import ROOT
from tests.support.streams import write_clip


@pytest.mark.timeout(280)
def test_the_whole_path_ends_by_itself_with_answers_and_a_contact_sheet(tmp_path: Path) -> None:
    footage = tmp_path / "footage"
    footage.mkdir()
    write_clip(footage / "Front door.mp4", num=20)
    command = [sys.executable, "-m", "tests.support.real", "--out", str(tmp_path / "out"), "--footage", str(footage)]
    command += ["--seconds", "3", "--encoder", str(make_clip(tmp_path / "clip"))]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=270, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr
    assert "camera front-door: h264" in ran.stdout
    assert "all is well" in ran.stdout or ", 1 warning" in ran.stdout  # a clock that nothing keeps right
    assert "vilamp init, to the first answer" in ran.stdout
    with Image.open(tmp_path / "out" / "real.png") as sheet:
        assert sheet.width > 500
