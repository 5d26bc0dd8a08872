"""Files of the data folder: their owner's alone, complete or not there, and nothing left behind."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.cli.main import main
from agent.runtime.files import LEFTOVER_AGE_S, create_private, make_private, remove_leftovers, replace_private
from agent.settings.settings import TlsSettings
from agent.web.auth import Auth, TokenFileError
from agent.web.tls import TlsError, prepare_tls
from tests.support.agents import settings_in
from tests.support.memories import fill, open_store

ROOT = Path(__file__).parents[2]


def modes(folder: Path) -> dict[str, int]:
    """Of everything in the folder, and of itself, that others may use."""
    everything = [folder, *folder.rglob("*")]
    return {str(p.relative_to(folder)): m for p in everything if (m := stat.S_IMODE(p.stat().st_mode)) & 0o077}


@pytest.mark.parametrize("call", ["open", "fsync", "link", "rename"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_file_that_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, call: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokens.json.old").write_text("kept")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, refuse)
        if call == "rename":
            patched.setattr(Path, "replace", refuse)
        else:
            with pytest.raises(TokenFileError, match="check the folder and the disk"):
                Auth.open(tmp_path)
        if call != "link":
            with pytest.raises(TlsError, match="check the folder and the disk"):
                prepare_tls(TlsSettings(self_signed=True), tmp_path, now=1e9)
            with pytest.raises(OSError, match=os.strerror(code)):
                replace_private(tmp_path / "tokens.json.old", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["tokens.json.old"]
    assert (tmp_path / "tokens.json.old").read_text() == "kept"


def test_files_are_made_once_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert create_private(path, b"one") is True
    assert create_private(path, b"two") is False
    assert path.read_bytes() == b"one"
    replace_private(path, b"three")
    assert path.read_bytes() == b"three"
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_leftovers_of_killed_processes_go_when_they_are_old(tmp_path: Path) -> None:
    old, young, other = ".tokens.json.0123456789abcdef", ".tokens.json.fedcba9876543210", ".tokens.json.bak"
    for name in (old, young, other):
        (tmp_path / name).write_text("x")
    now = (tmp_path / young).stat().st_mtime
    os.utime(tmp_path / old, (now, now - LEFTOVER_AGE_S - 1))
    os.utime(tmp_path / other, (0, 0))
    assert remove_leftovers(tmp_path, now) == [old]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([young, other])


def test_what_others_could_read_is_narrowed_and_named(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with open_store(data / "memory") as store:
        fill(store, "a", range(1))
    (data / "alerts.sqlite").write_bytes(b"")
    for path in (data, *data.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (data / "memory" / "link").symlink_to(ROOT / "README.md")
    before = (ROOT / "README.md").stat().st_mode
    narrowed = make_private(data)
    assert {"alerts.sqlite", "memory/journal.sqlite", "memory/segments/a/000000000001.frames"} <= set(narrowed)
    assert modes(data) in ({}, {"memory/link": stat.S_IMODE(before)})
    assert (ROOT / "README.md").stat().st_mode == before
    assert make_private(data) == []


def test_a_folder_with_other_peoples_things_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "tokens.json").write_text("{}")
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    tmp_path.chmod(0o755)
    for name in ("tokens.json", "holiday.jpg"):
        (tmp_path / name).chmod(0o644)
    assert make_private(tmp_path) == ["tokens.json"]
    assert set(modes(tmp_path)) == {".", "holiday.jpg"}
    assert make_private(tmp_path / "nowhere") == []


@pytest.mark.parametrize("command", [["memory"], ["erase", "door", "--all", "--yes"]])
def test_commands_on_a_data_folder_make_private_files(tmp_path: Path, command: list[str]) -> None:
    """A user's umask of 022 does not show in the data folder."""
    with open_store(tmp_path / "memory") as store:
        fill(store, "door", range(2))
    for path in (tmp_path / "memory").glob("journal.sqlite-*"):
        path.unlink()
    before = os.umask(0o022)
    try:
        main([*command, "--data-dir", str(tmp_path)])
        made = os.umask(0o022)
    finally:
        os.umask(before)
    assert made == 0o077
    assert modes(tmp_path / "memory") == {}


def test_serving_makes_everything_private(tmp_path: Path) -> None:
    """The real command, in a folder that the operator made with 0755, killed once it listens."""
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    data.chmod(0o755)
    (data / "replays.json").write_text("{}")
    (data / "replays.json").chmod(0o644)
    code = (
        "import asyncio, os, sys; os.umask(0o022)\n"
        "import agent.web.server, agent.cli.main\n"
        "real = agent.web.server.serve\n"
        "async def once(settings):\n"
        "    done = asyncio.Event()\n"
        "    async def started(url): done.set()\n"
        "    task = asyncio.create_task(real(settings, started=started))\n"
        "    await asyncio.wait([task, asyncio.create_task(done.wait())], return_when='FIRST_COMPLETED')\n"
        "    os._exit(7 if done.is_set() else 1)\n"
        "agent.web.server.serve = once\n"
        "agent.cli.main.main(sys.argv[1:])\n"
    )
    checkpoint = settings_in(data).model.path
    ran = subprocess.run(
        [sys.executable, "-c", code, "serve", "--data-dir", str(data), "--port", "0", "--model", checkpoint,
         "--num-threads", "1"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 7, ran.stderr
    assert {"tokens.json", "memory", "alerts.sqlite", "replays.json"} <= {path.name for path in data.iterdir()}
    assert modes(data) == {}
    assert "other users could read files of the data folder" in ran.stderr


def test_a_clock_at_the_end_of_time_is_said(tmp_path: Path) -> None:
    with pytest.raises(TlsError, match="clock is wrong"):
        prepare_tls(TlsSettings(self_signed=True), tmp_path, now=253_402_300_799.0)
