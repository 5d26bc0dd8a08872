"""Read, check and write checkpoint folders in the published format.

A folder has config.json, safetensors (one file, or shards with an index), tokenizer files, and the configurations of
the two towers inside it or beside it. Weights are only ever read from safetensors, never unpickled. This file does not
know what the network computes.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model.config import ConfigError, ModelConfig
from model.config_json import config_from_json, config_to_json
from model.hub import cached
from model.network import PUBLISHED_PREFIXES, VilampNetwork, published_name, published_tensors
from model.onevision import ONEVISION, from_onevision, published_from_onevision
from model.quantised import require_4bit, to_4bit
from model.tokens import ClipTokenizer, LanguageTokenizer, TokenizerMissingError, read_tokenizer

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
# Ignored: buffers and heads that some exporters write to the file and that this program does not use.
IGNORED_ENDINGS = (".position_ids", ".rotary_emb.inv_freq")
IGNORED_PARTS = (".vision_tower.vision_model.head.",)
# Optional: the published model stores these, but nothing uses them.
OPTIONAL_NAMES = ("vision_tower.post_layernorm.weight", "vision_tower.post_layernorm.bias", "dual_encoder.logit_scale")
PART_TITLES = {
    "vision_tower.": "vision tower",
    "mm_projector.": "projector",
    "dual_encoder.": "CLIP",
    "composer.": "composer",
    "image_newline": "newline",
    "language_model.": "language model",
}


class CheckpointError(ConfigError):
    """Raised for a checkpoint folder that is incomplete, has another format, or does not fit its own config.json."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The loaded contents of a checkpoint folder: network, configuration and tokenizers."""

    config: ModelConfig
    network: VilampNetwork
    tokenizer: LanguageTokenizer
    clip_tokenizer: ClipTokenizer


def load_checkpoint(
    folder: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    overwrite: Mapping[str, Any] | None = None,
    language_4bit: bool = False,
) -> Checkpoint:
    """Load a checkpoint folder. overwrite: keys that replace those of config.json.

    Raises CheckpointError or ConfigError with a message that says what is wrong and where.
    """
    folder = Path(folder)
    library = require_4bit(device) if language_4bit else None  # fail before minutes of reading
    config = read_config(folder, overwrite)
    try:
        backend = read_tokenizer(folder)
        clip_backend = read_tokenizer(find_tower(folder, config.clip_folder, "CLIP encoder"))
    except TokenizerMissingError as error:
        raise CheckpointError(str(error)) from error
    tokenizer = LanguageTokenizer(backend, _stop_ids(folder))
    if len(tokenizer) > config.language.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens but the model only {config.language.vocab_size}"
        )
    # Cut the padded vocabulary down to the tokenizer's length, as the published loader does.
    config = replace(config, language=replace(config.language, vocab_size=len(tokenizer)))
    network = build_empty(config)
    fill_network(network, read_tensors(folder, config), folder, dtype)
    if library is not None:
        to_4bit(network.language_model.model.layers, library, dtype)
    clip_tokenizer = ClipTokenizer(clip_backend, config.dual_encoder.max_text_tokens)
    return Checkpoint(config, network.to(device).eval(), tokenizer, clip_tokenizer)


def save_checkpoint(
    folder: str | Path,
    network: VilampNetwork,
    tokenizer: LanguageTokenizer,
    clip_tokenizer: ClipTokenizer,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write a folder that `load_checkpoint` can read, with both towers' configurations inside.

    dtype: precision of all weights; None keeps that of each. Weights are split into files of at most max_shard_bytes.
    """
    folder = Path(folder)
    config = replace(
        network.config,
        vision_folder=Path(network.config.vision_folder).name,
        clip_folder=Path(network.config.clip_folder).name,
    )
    files = config_to_json(config)
    stop_ids = sorted(tokenizer.stop_ids)
    saved_dtype = dtype or network.image_newline.dtype
    files["config"]["torch_dtype"] = str(saved_dtype).removeprefix("torch.")
    files["config"]["eos_token_id"] = stop_ids[0] if stop_ids else None
    vision, clip = folder / config.vision_folder, folder / config.clip_folder
    for path, content in (
        (folder / "config.json", files["config"]),
        (folder / "generation_config.json", {"eos_token_id": stop_ids}),
        (folder / "tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer"}),
        (vision / "config.json", files["vision"]),
        (vision / "preprocessor_config.json", files["vision_image"]),
        (clip / "config.json", files["clip"]),
        (clip / "preprocessor_config.json", files["clip_image"]),
        (
            clip / "tokenizer_config.json",
            {"tokenizer_class": "CLIPTokenizer", "model_max_length": config.dual_encoder.max_text_tokens},
        ),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    tokenizer.backend.save(str(folder / "tokenizer.json"))
    clip_tokenizer.backend.save(str(clip / "tokenizer.json"))
    tensors = {
        name: tensor.detach().to("cpu", dtype or tensor.dtype).contiguous()
        for name, tensor in published_tensors(network)
    }
    _write_shards(folder, tensors, max_shard_bytes)


def read_config(folder: Path, overwrite: Mapping[str, Any] | None = None) -> ModelConfig:
    """Read config.json and the configurations of the two towers that it names. Raises CheckpointError or ConfigError."""
    top = read_json(folder / "config.json")
    if top.get("model_type") == ONEVISION:
        top, vision = from_onevision(top)
        vision_image = read_json(folder / "preprocessor_config.json", optional=True)
    elif top.get("model_type") == "llava_qwen":
        place = find_tower(folder, str({**top, **(overwrite or {})}.get("mm_vision_tower", "siglip")), "vision tower")
        vision = read_json(place / "config.json")
        vision_image = read_json(place / "preprocessor_config.json", optional=True)
    else:
        kind = top.get("model_type")
        raise ConfigError(f"{folder} has model_type {kind!r}; 'llava_qwen' and '{ONEVISION}' can be read")
    top |= overwrite or {}
    clip = find_tower(folder, str(top.get("clip_model_path", "clip")), "CLIP encoder")
    return config_from_json(
        top,
        vision,
        read_json(clip / "config.json"),
        vision_image=vision_image,
        clip_image=read_json(clip / "preprocessor_config.json", optional=True),
    )


def find_tower(folder: Path, name: str, what: str) -> Path:
    """Return the folder with a tower's (encoder's) configuration: in the checkpoint, beside it, or in the cache."""
    places = [folder / name, folder.parent / name, folder / Path(name).name, folder.parent / Path(name).name]
    for place in places:
        if (place / "config.json").is_file():
            return place
    in_cache = cached(name)
    if in_cache is not None and (in_cache / "config.json").is_file():
        return in_cache
    looked = ", ".join(dict.fromkeys(str(place) for place in places))
    raise CheckpointError(
        f"the checkpoint names {name!r} as its {what}; its config.json is needed (and CLIP's tokenizer.json), "
        f"not its weights. Looked in: {looked}, and in the Hugging Face cache"
    )


def read_tensors(folder: Path, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield (published name, tensor on the CPU) of every tensor, one at a time, in whichever format the folder is."""
    if read_json(folder / "config.json").get("model_type") != ONEVISION:
        yield from read_files(folder)
        return
    unused = f".encoder.layers.{config.vision.tower.num_hidden_layers - 1}."
    for name, tensor in read_files(folder):
        published = published_from_onevision(name)
        if not (unused in published and ".vision_tower." in published):
            yield published, tensor
    for name, tensor in read_files(find_tower(folder, config.clip_folder, "CLIP encoder")):
        yield "model.frame_selector.model." + name, tensor


def read_files(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield (name as stored, tensor on the CPU) of every tensor in the folder, one at a time. Raises CheckpointError."""
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                for name in names:
                    yield name, file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error


def build_empty(config: ModelConfig) -> VilampNetwork:
    """Build the network without weights: parameters on torch's meta device, buffers with their values."""
    with torch.device("meta"):
        network = VilampNetwork(config)
    for module in network.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            module._buffers[name] = _fresh_buffer(module, name, buffer)
    return network


def fill_network(
    network: VilampNetwork, tensors: Iterator[tuple[str, Tensor]], folder: Path, dtype: torch.dtype
) -> None:
    """Load tensors with published names into the network.

    Raises CheckpointError, listing by part what is missing, unknown or of another shape.
    """
    own_names = {published_name(name): name for name in network.state_dict()}
    expected = network.state_dict()
    state: dict[str, Tensor] = {}
    problems: dict[str, list[str]] = defaultdict(list)
    for published, tensor in tensors:
        own = own_names.get(published)
        if own is None:
            if not published.endswith(IGNORED_ENDINGS) and not any(part in published for part in IGNORED_PARTS):
                problems[_part_of(published)].append(f"unexpected {published}")
            continue
        tensor = _cut_vocabulary(own, tensor, expected[own])
        if tensor.shape != expected[own].shape:
            problems[_part_of(published)].append(
                f"{published} is {tuple(tensor.shape)}, config.json says {tuple(expected[own].shape)}"
            )
        state[own] = tensor.to(dtype)
    if network.config.language.tie_word_embeddings:
        # Input and output share one matrix, but a file may still hold a copy of it.
        state.pop("language_model.lm_head.weight", None)
        expected.pop("language_model.lm_head.weight")
    for own in expected:
        if own in OPTIONAL_NAMES and own not in state:
            state[own] = torch.zeros(expected[own].shape, dtype=dtype)
        elif own not in state:
            problems[_part_of(published_name(own))].append(f"missing {published_name(own)}")
    if problems:
        raise CheckpointError(_report(folder, problems))
    network.load_state_dict(state, strict=False, assign=True)
    if network.config.language.tie_word_embeddings:
        network.language_model.lm_head.weight = network.language_model.model.embed_tokens.weight


def _cut_vocabulary(own: str, tensor: Tensor, expected: Tensor) -> Tensor:
    if own in ("language_model.lm_head.weight", "language_model.model.embed_tokens.weight"):
        return tensor[: expected.shape[0]].contiguous() if tensor.shape[0] > expected.shape[0] else tensor
    return tensor


def _fresh_buffer(module: nn.Module, name: str, buffer: Tensor) -> Tensor:
    """Compute the value of a buffer that transformers computes when building a module, except on the meta device."""
    if name == "position_ids":
        return torch.arange(buffer.shape[-1]).expand(1, -1)
    if name in ("inv_freq", "original_inv_freq"):
        fresh: Any = type(module)(module.config)
        return torch.as_tensor(fresh.inv_freq)
    raise AssertionError(f"unknown buffer {name} in {type(module).__name__}")


def _part_of(published: str) -> str:
    for own, prefix in PUBLISHED_PREFIXES:
        if published.startswith(prefix):
            return PART_TITLES[own]
    return "language model"


def _report(folder: Path, problems: Mapping[str, list[str]], most: int = 6) -> str:
    lines = [f"the tensors in {folder} do not fit its config.json:"]
    for part, found in problems.items():
        rest = f" and {len(found) - most} more" if len(found) > most else ""
        lines.append(f"  {part}: {'; '.join(found[:most])}{rest}")
    return "\n".join(lines)


def _weight_files(folder: Path) -> list[Path]:
    index = folder / INDEX_NAME
    if index.is_file():
        names = sorted(set(read_json(index).get("weight_map", {}).values()))
        if any(Path(name).name != name for name in names):
            raise CheckpointError(f"{index} names files outside its folder")
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(f"{folder} lacks the shards {', '.join(missing)} that its index names")
        return [folder / name for name in names]
    if (folder / SINGLE_NAME).is_file():
        return [folder / SINGLE_NAME]
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        raise CheckpointError(
            f"{folder} holds pickled weights (.bin), which can run code and are never read. Convert them once, where "
            "you trust them: load with torch.load(..., weights_only=True), save with safetensors.torch.save_file"
        )
    raise CheckpointError(f"{folder} holds neither {SINGLE_NAME} nor {INDEX_NAME}")


def _write_shards(folder: Path, tensors: dict[str, Tensor], max_shard_bytes: int) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    room = max_shard_bytes
    for name, tensor in tensors.items():
        if tensor.nbytes > room and shards[-1]:
            shards.append({})
            room = max_shard_bytes
        shards[-1][name] = tensor
        room -= tensor.nbytes
    if len(shards) == 1:
        save_file(shards[0], folder / SINGLE_NAME, metadata={"format": "pt"})
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file_name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file_name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file_name)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX_NAME).write_text(json.dumps(index, indent=2))


def _stop_ids(folder: Path) -> list[int]:
    """Return every token id that ends an answer. generation_config.json may name one or several."""
    stop = read_json(folder / "generation_config.json", optional=True).get("eos_token_id")
    if stop is None:
        return []
    return [int(token) for token in stop] if isinstance(stop, list) else [int(stop)]


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """Return the JSON object in a file; {} if the file is `optional` and missing. Raises CheckpointError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if optional:
            return {}
        raise CheckpointError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold a JSON object")
    return content
