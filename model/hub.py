"""Find checkpoints named by a hub id ("org/name"), in the Hugging Face cache or by downloading them into it.

Input: a folder, "builtin" or a hub id. Output: a local folder. Only safetensors, JSON and tokenizer files are fetched,
never pickles or code. Only `resolve` uses the network, and only for what the cache lacks; HF_HUB_OFFLINE=1 forbids it
altogether. Loading a folder never downloads anything. This file does not know what a checkpoint contains.
"""

import json
import re
from pathlib import Path
from typing import Any

from model.config import ConfigError

BUILTIN = Path(__file__).parent / "builtin"
RECOMMENDED = "google/siglip2-base-patch32-256"
"""The encoder for real cameras whose answers a server writes; docs/decisions.md says why."""
RECOMMENDED_MB = 1510
TOWER_KEYS = ("mm_vision_tower", "clip_model_path")
_DESCRIPTION = ("*.json", "merges.txt", "spiece.model", "tokenizer.model")  # configuration and tokenizer
_WEIGHTS = ("*.safetensors",)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HELP = "run `vilamp model fetch --to FOLDER` with this name where there is a network, and give the path of that folder"


class NotOnDiskError(ConfigError):
    """Raised for a checkpoint that is neither a folder nor in the cache and could not be downloaded."""


def resolve(name: str) -> Path:
    """Return the local folder of a checkpoint: "builtin", a folder, or a hub id such as "orange-sk/ViLAMP-llava-qwen".

    A hub id is taken from the cache if it is complete there, and downloaded otherwise, together with the configuration
    of the towers that its config.json names by hub id. Raises NotOnDiskError with a message for the user.
    """
    if name == "builtin":
        return BUILTIN
    folder = Path(name).expanduser()
    if folder.is_dir() or not is_hub_id(name):
        return folder
    found = _fetched(name, (*_DESCRIPTION, *_WEIGHTS))
    config = _config(found)
    for tower in towers_of(config):
        # A published checkpoint contains its towers' weights. A LLaVA-OneVision one lacks CLIP, whose weights are needed too.
        _fetched(tower, _DESCRIPTION if config.get("model_type") == "llava_qwen" else (*_DESCRIPTION, *_WEIGHTS))
    return found


def fetch(name: str, folder: Path | None = None) -> Path:
    """Download what a hub id lacks on this machine, and return its folder. Shows progress, and resumes an earlier try.

    folder: where the files go, to be copied to a machine without a network; None: the cache. Raises NotOnDiskError.
    """
    if not is_hub_id(name):
        raise NotOnDiskError(f"{name!r} is not a hub id such as {RECOMMENDED}")
    if folder is None:
        return resolve(name)
    found = _download(name, (*_DESCRIPTION, *_WEIGHTS), folder)
    if not _is_complete(found, weights=True):
        raise NotOnDiskError(f"{name!r} has no safetensors, and nothing else is read")
    return found


def is_hub_id(name: str) -> bool:
    """Return whether `name` has the form "org/name". More parts, a leading dot, slash or tilde mean a folder."""
    return _HUB_ID.fullmatch(name) is not None


def cached(name: str) -> Path | None:
    """Return the folder of a hub id in the local cache, or None. Never uses the network."""
    if not is_hub_id(name):
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, HFValidationError):  # the library reports missing files as an OSError
        return None


def on_disk(name: str) -> bool:
    """Return whether a hub id is complete in the local cache, with its weights. Never uses the network."""
    found = cached(name)
    return found is not None and _is_complete(found, weights=True)


def towers_of(config: dict[str, Any]) -> list[str]:
    """Return the hub ids of the towers (encoders) named in a config.json. Towers named by a folder are left out."""
    named = (str(config.get(key, "")) for key in TOWER_KEYS)
    return [name for name in dict.fromkeys(named) if is_hub_id(name)]


def _fetched(name: str, patterns: tuple[str, ...]) -> Path:
    weights = _WEIGHTS[0] in patterns
    found = cached(name)
    if found is not None and _is_complete(found, weights=weights):
        return found
    found = _download(name, patterns)
    if not _is_complete(
        found, weights=weights
    ):  # the library returns an incomplete folder, too, if it cannot reach the hub
        raise NotOnDiskError(
            f"{name!r} is not complete in the Hugging Face cache, and the hub cannot be reached (or HF_HUB_OFFLINE is "
            f"set) or has no {'safetensors (nothing else is read)' if weights else 'config.json'} of that name; {_HELP}"
        )
    return found


def _download(name: str, patterns: tuple[str, ...], folder: Path | None = None) -> Path:
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    begins = f"{name!r} is no folder here and not complete in the Hugging Face cache"
    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns), local_dir=folder))
    except GatedRepoError as error:
        raise NotOnDiskError(f"{begins}; its authors ask you to log in and accept their terms first") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise NotOnDiskError(f"{begins}, and the hub knows no model of that name (or it is private)") from error
    except HfHubHTTPError as error:
        raise NotOnDiskError(f"{begins}, and the hub refused: {error}") from error
    except (OSError, httpx.HTTPError) as error:
        raise NotOnDiskError(f"{begins}, and the hub cannot be reached (or HF_HUB_OFFLINE is set); {_HELP}") from error


def _is_complete(folder: Path, *, weights: bool) -> bool:
    """Return whether config.json is there and, with `weights`, every weight file, as after a complete download."""
    if not (folder / "config.json").is_file():
        return False
    index = folder / "model.safetensors.index.json"
    if not weights:
        return True
    if not index.is_file():
        return (folder / "model.safetensors").is_file()
    return all((folder / file).is_file() for file in set(_read(index).get("weight_map", {}).values()))


def _config(folder: Path) -> dict[str, Any]:
    return _read(folder / "config.json")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # loading the folder will report what is wrong with it
    return content if isinstance(content, dict) else {}
