"""docs/architecture.md shows the files that a frame, a question and an alert really pass."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HELP = "python -m agent.walk prints the new lists, and with --svg docs/pictures/walk.svg it draws the picture"

Walk = list[tuple[str, str]]  # folder and file, in order of first entry


def walks_in(text: str) -> dict[str, Walk]:
    """Return the walks listed in `text` by name."""
    walks: dict[str, Walk] = {}
    for heading, number, block in re.findall(
        r"\*\*(One \w+)\*\* passes (\d+) files:\n\n(.*?)(?:\n\n|\n?$)", text, re.S
    ):
        lines = re.findall(r"- `([\w/]+)/` ((?:[\w, ]|\n  )+)", block)
        walks[heading] = [(folder, file) for folder, files in lines for file in re.split(r",\s+", files.strip())]
        assert len(walks[heading]) == int(number)
    return walks


def folders(walk: Walk) -> list[str]:
    """Return the folders in order of first entry."""
    return list(dict.fromkeys(folder for folder, _ in walk))


@pytest.fixture(scope="module")
def walked() -> dict[str, Walk]:
    ran = subprocess.run(
        [sys.executable, "-m", "agent.walk"], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return walks_in(ran.stdout)


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "architecture.md").read_text()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["One frame", "One question", "One alert"])
def test_the_page_lists_the_files_of_a_real_run(walked: dict[str, Walk], page: str, name: str) -> None:
    listed = walks_in(page)[name]
    missing, gone = set(walked[name]) - set(listed), set(listed) - set(walked[name])
    assert not missing | gone, f"passed and not listed: {missing}; listed and not passed: {gone}. {HELP}"
    assert folders(listed) == folders(walked[name]), HELP


def test_the_picture_shows_what_the_page_lists(page: str) -> None:
    picture = (ROOT / "docs" / "pictures" / "walk.svg").read_text()
    for walk in walks_in(page).values():
        for folder, file in walk:
            assert f">{folder}/<" in picture, HELP
            assert re.search(rf"\b{file}\b", picture), HELP


def test_a_frame_crosses_from_streaming_to_the_agent_once(walked: dict[str, Walk]) -> None:
    inside = [folder == "streaming" for folder, _ in walked["One frame"]]
    assert inside[0]
    assert inside == sorted(inside, reverse=True)


def test_every_entry_of_the_agent_has_a_row(page: str) -> None:
    section = page.partition("## The folders of agent/")[2].partition("\n## ")[0]
    rows = set(re.findall(r"^\| `([\w./]+)` \|", section, re.MULTILINE))
    entries = {path.name for path in (ROOT / "agent").iterdir()} - {"__init__.py", "__pycache__"}
    assert rows == {name if name.endswith(".py") else f"{name}/" for name in entries}
