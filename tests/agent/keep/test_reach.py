"""How long frames are kept: shares of the machine by default, limits of the configuration, and what is said of them."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agent.keep.caps import CAMERA_BYTES, Machine, camera_caps, folder_caps, this_machine
from agent.keep.reach import DAY_S, FRAME_BYTES, reach_words, reaches
from agent.settings.settings import CameraSettings
from agent.settings.source import load_settings
from tests.support.agents import START, settings_in

BIG = Machine(disk_bytes=10**12, ram_bytes=64 * 10**9)
SMALL = Machine(disk_bytes=100 * 10**9, ram_bytes=4 * 10**9)


def held(**changes: Any) -> dict[str, Any]:
    """Two days of gate at a frame a second, 50 kB each."""
    frames = round(2 * DAY_S)
    given = {"camera": "gate", "frames": frames, "bytes": frames * 50_000, "oldest": START - 2 * DAY_S, "newest": START}
    return {**given, "frames_per_day": DAY_S, **changes}


@pytest.mark.parametrize(
    ("written", "seconds"), [("7d", 604_800), ("36 h", 129_600), ("90min", 5_400), ("1.5d", 129_600), (600, 600)]
)
def test_durations(written: object, seconds: float) -> None:
    assert CameraSettings.model_validate({"keep": written}).keep == seconds


@pytest.mark.parametrize("written", ["a week", "7 days", "-1d", 0, "0d", ""])
def test_wrong_durations_are_refused(written: object) -> None:
    with pytest.raises(ValidationError):
        CameraSettings.model_validate({"keep": written})


def test_the_old_name_still_limits_the_age(tmp_path: Path) -> None:
    warnings: list[str] = []
    path = tmp_path / "a.yaml"
    path.write_text("cameras:\n  gate:\n    max_age_s: 3600\nmemory:\n  max_age_s: 7200\n")
    settings = load_settings(path, environ={}, warn=lambda mistake: warnings.append(str(mistake)))
    assert (settings.cameras["gate"].keep, settings.memory.keep) == (3600, 7200)
    assert warnings[0] == f"{path}:3: cameras.gate.max_age_s: is called keep now, and is read as that: rename it"


def test_by_default_cameras_share_a_tenth_of_the_disk_and_of_the_memory(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, cameras={"gate": {}, "yard": {"max_bytes": "70GiB", "max_frames": 5}})
    assert camera_caps(settings, "gate", BIG).bytes == CAMERA_BYTES
    assert camera_caps(settings, "gate", SMALL).bytes == 10 * 10**9
    assert camera_caps(settings, "yard", SMALL).bytes == 70 * 2**30  # its own limit, however large
    assert folder_caps(settings, SMALL).bytes == 10 * 10**9 + 70 * 2**30
    assert folder_caps(settings, SMALL).frames == 400_000_000 // 3_400 + 5
    given = settings_in(tmp_path, memory={"max_bytes": "1GiB", "keep": "1d"}, cameras={"gate": {"keep": "2d"}})
    assert folder_caps(given, BIG).bytes == 2**30
    assert camera_caps(given, "gate", BIG).keep_s == DAY_S


def test_how_far_back_it_will_reach(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, cameras={"gate": {}})
    reach = reaches([held()], settings, BIG, free_bytes=5 * 10**11)["gate"]
    assert reach.limit == "a share of the disk"
    assert reach.will_s == pytest.approx(50 * 10**9 / 50_000)
    kept = settings_in(tmp_path, cameras={"gate": {"keep": "7d"}})
    assert reaches([held()], kept, BIG, free_bytes=5 * 10**11)["gate"].will_s == 7 * DAY_S
    full = reaches([held()], kept, BIG, free_bytes=0)["gate"]
    assert (full.limit, full.will_s) == ("free disk space", pytest.approx(2 * DAY_S))
    few = settings_in(tmp_path, cameras={"gate": {"max_frames": 3600}})
    assert reaches([held()], few, BIG, 10**12)["gate"] == reaches([held()], few, BIG, 10**12)["gate"]
    assert reaches([held()], few, BIG, 10**12)["gate"].will_s == pytest.approx(3600)


def test_a_new_camera_is_estimated_by_its_rate(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, cameras={"gate": {"rate_hz": 2.0}, "off": {"enabled": False}})
    found = reaches([], settings, BIG, free_bytes=10**12)
    assert list(found) == ["gate"]
    assert found["gate"].will_s == pytest.approx(CAMERA_BYTES / (2 * FRAME_BYTES))
    two = settings_in(tmp_path, cameras={"gate": {"rate_hz": 2.0}, "yard": {"rate_hz": 2.0}})
    assert reaches([], two, SMALL, 10**12)["gate"].will_s == pytest.approx(10 * 10**9 / (4 * FRAME_BYTES))
    assert reaches([], settings_in(tmp_path), BIG, 10**12) == {}


def test_words() -> None:
    settings_reach = reaches([held()], settings_in(Path("/tmp"), cameras={"gate": {"keep": "7d"}}), BIG, 10**12)
    assert (
        reach_words("gate", START - 2 * DAY_S, settings_reach["gate"], "Europe/Berlin")
        == "gate reaches back to Fri 2026-11-20 17:04, will reach 7 d (keep)"
    )
    assert reach_words("gate", None, settings_reach["gate"], "UTC").startswith("gate remembers nothing yet")


def test_this_machine_has_sizes(tmp_path: Path) -> None:
    machine = this_machine(tmp_path / "not" / "there")
    assert machine.disk_bytes > 10**8
    assert machine.ram_bytes > 10**8
