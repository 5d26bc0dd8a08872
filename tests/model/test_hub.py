"""Checkpoints by hub id, read from a cache folder in the layout of huggingface_hub. No test uses the network."""

import asyncio
import json
import shutil
from pathlib import Path

import huggingface_hub.constants as hub_constants
import numpy as np
import pytest

from model.checkpoint import CheckpointError, load_checkpoint
from model.hub import BUILTIN, NotOnDiskError, cached, is_hub_id, resolve, towers_of
from model.video_model import VideoModel
from tests.support.encoders import make_clip
from tests.support.hub import hub
from tests.support.processes import vilamp
from tests.support.tiny import make_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def put_in_cache(cache: Path, name: str, content: Path) -> Path:
    """Write `content` to the cache as a download does: refs/main names a commit, snapshots/ holds its files."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return Path(shutil.copytree(content, repository / "snapshots" / COMMIT))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    return folder


def test_hub_ids_are_recognised() -> None:
    assert resolve("builtin") == BUILTIN
    assert is_hub_id("orange-sk/ViLAMP-llava-qwen_sig")
    for path in ("folder", "./a/b", "/a/b", "~/a", "a/b/c", "../b", "a/", ""):
        assert not is_hub_id(path), path
    assert resolve("~/m") == Path.home() / "m"
    assert towers_of({"mm_vision_tower": "google/siglip", "clip_model_path": "clip"}) == ["google/siglip"]


def test_folder_is_preferred_to_a_hub_id_of_the_same_name(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert resolve("org/name") == Path("org/name")


def test_cached_checkpoint_is_used_offline(cache: Path, tmp_path: Path) -> None:
    own = make_checkpoint(tmp_path / "made")
    snapshot = put_in_cache(cache, "org/tiny", own)
    found = resolve("org/tiny")
    assert found == snapshot
    picture = np.zeros((30, 40, 3), np.uint8)
    ours, theirs = VideoModel.load(own), VideoModel.load(found, name="tiny")
    np.testing.assert_array_equal(ours.encode([picture])[0].patches, theirs.encode([picture])[0].patches)
    assert theirs.info.name == "tiny"


def test_towers_named_by_hub_id_are_read_from_the_cache(cache: Path, tmp_path: Path) -> None:
    own = make_checkpoint(tmp_path / "made")
    config = json.loads((own / "config.json").read_text())
    for key, name in (("mm_vision_tower", "google/tower"), ("clip_model_path", "openai/pair")):
        put_in_cache(cache, name, own / config[key])
        shutil.rmtree(own / config[key])
        config[key] = name
    (own / "config.json").write_text(json.dumps(config))
    put_in_cache(cache, "org/tiny", own)
    assert load_checkpoint(resolve("org/tiny")).config.clip_folder == "openai/pair"
    shutil.rmtree(cache / "models--openai--pair")
    with pytest.raises(NotOnDiskError, match="'openai/pair' is no folder here"):
        resolve("org/tiny")
    with pytest.raises(CheckpointError, match="and in the Hugging Face cache"):
        load_checkpoint(own)


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
def test_interrupted_download_is_not_a_checkpoint(cache: Path, tmp_path: Path, lost: str) -> None:
    snapshot = put_in_cache(cache, "org/tiny", make_checkpoint(tmp_path / "made"))
    (snapshot / lost).unlink()
    assert cached("org/tiny") == snapshot
    with pytest.raises(NotOnDiskError, match="not complete in the Hugging Face cache"):
        resolve("org/tiny")


def test_all_shards_must_be_there(cache: Path, tmp_path: Path) -> None:
    own = make_checkpoint(tmp_path / "made")
    (own / "model.safetensors").rename(own / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (own / "model.safetensors.index.json").write_text(json.dumps(index))
    snapshot = put_in_cache(cache, "org/tiny", own)
    with pytest.raises(NotOnDiskError, match="vilamp model fetch"):
        resolve("org/tiny")
    (snapshot / "model-00002-of-00002.safetensors").touch()
    assert resolve("org/tiny") == snapshot


def test_only_safe_file_types_are_downloaded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def record(name: str, **options: object) -> str:
        asked.append(list(options.get("allow_patterns", [])))  # type: ignore[call-overload]
        raise FileNotFoundError(name)

    monkeypatch.setattr("huggingface_hub.snapshot_download", record)
    with pytest.raises(NotOnDiskError):
        resolve("org/absent")
    assert asked == [
        [],
        ["*.json", "merges.txt", "spiece.model", "tokenizer.model", "*.safetensors"],
    ]  # the cache first, then the hub


def test_model_command_checks_a_cached_hub_id(tmp_path: Path) -> None:
    put_in_cache(tmp_path / "cache", "org/tiny", make_checkpoint(tmp_path / "made"))
    offline = {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    ran = vilamp("model", "check", "org/tiny", "--patch-storage", "int8", **offline)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "self-test passed" in ran.stdout
    assert "fits, 10,000 frames" in ran.stdout
    absent = vilamp("model", "check", "org/absent", **offline)
    assert absent.returncode == 1
    assert "'org/absent' is no folder here and not complete in the Hugging Face cache" in absent.stderr
    assert "Traceback" not in absent.stderr
    served = vilamp("serve", "--model", "org/absent", "--port", "0", "--data-dir", str(tmp_path / "data"), **offline)
    assert served.returncode == 1
    assert "the hub cannot be reached" in served.stderr


def test_model_command_checks_a_clip_encoder(tmp_path: Path) -> None:
    own = make_checkpoint(tmp_path / "made")
    load_checkpoint(own).network.dual_encoder.save_pretrained(own / "clip")  # beside its tokenizer
    ran = vilamp("model", "check", str(own / "clip"))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "64 bytes a frame" in ran.stdout
    assert "self-test passed" in ran.stdout


async def test_a_broken_download_is_resumed_and_prepared_for_another_machine(tmp_path: Path) -> None:
    made = make_clip(tmp_path / "made")
    big = bytes(range(256)) * (24 << 12)  # 24 MiB: the library writes 10 MiB at a time
    (made / "more.safetensors").write_bytes(big)
    async with hub(made, breaks="more.safetensors") as server:
        online = {"HF_ENDPOINT": server.url, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
        to = tmp_path / "usb stick"
        for _ in range(2):  # the first may end with the connection
            ran = await asyncio.to_thread(vilamp, "model", "fetch", "org/tiny", "--to", str(to), **online)
            if ran.returncode == 0:
                break
        assert ran.returncode == 0, ran.stderr
        assert server.ranges, "the broken file was begun anew"
    assert f"use it with model.path: {to}" in ran.stdout
    assert (to / "more.safetensors").read_bytes() == big
    (to / "more.safetensors").unlink()  # no part of the model
    checked = await asyncio.to_thread(vilamp, "model", "check", str(to), HF_HUB_OFFLINE="1")
    assert "self-test passed" in checked.stdout


async def test_fetched_into_the_cache_it_needs_no_network_afterwards(tmp_path: Path) -> None:
    async with hub(make_clip(tmp_path / "made")) as server:
        cache = {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
        ran = await asyncio.to_thread(vilamp, "model", "fetch", "org/tiny", HF_ENDPOINT=server.url, **cache)
    assert ran.returncode == 0, ran.stderr
    assert "use it with model.path: org/tiny" in ran.stdout
    checked = await asyncio.to_thread(vilamp, "model", "check", "org/tiny", HF_HUB_OFFLINE="1", **cache)
    assert "self-test passed" in checked.stdout
    refused = await asyncio.to_thread(vilamp, "model", "fetch", "./folder")
    assert refused.returncode == 1
    assert "is not a hub id" in refused.stderr
