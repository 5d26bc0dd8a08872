"""Write the commented `vilamp.yaml` of a set-up. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Choice:
    """What a set-up consists of. cameras: addresses by name, "" for one that publishes. notes: a comment by name.

    base_url: "": search without a language model. key_file: file with the server's key, or "".
    """

    cameras: Mapping[str, str]
    notes: Mapping[str, str]
    base_url: str
    model: str
    encoder: str
    port: int
    data_dir: str = ""
    key_file: str = ""
    far: bool = False  # the server is outside the private network, and pictures may go there
    thinks: bool = False


def config_text(choice: Choice) -> str:
    """Return the text of the configuration file. Raises nothing: names and addresses are quoted as JSON is."""
    lines = [
        "# Written by `vilamp init`. Check it:  vilamp doctor --config vilamp.yaml",
        "# Run it:    vilamp serve --config vilamp.yaml",
        "# All settings: docs/configuration.md. This file may hold passwords of cameras: keep it private.",
        "",
    ]
    if choice.data_dir:
        lines.append(f"data_dir: {_quoted(choice.data_dir)}  # pictures, tokens and alerts")
    lines += [f"port: {choice.port}", "", "cameras:"]
    for name, url in choice.cameras.items():
        lines.append(f"  {name}:" + ("" if url or choice.far else " {}") + _comment(choice.notes.get(name, "")))
        if url:
            lines.append(f"    url: {_quoted(url)}")
        if choice.far:
            lines.append("    egress: allowed        # its pictures may be sent to the server below")
    lines[-1] = lines[-1] if choice.cameras else "cameras: {}"
    lines += [
        "    # rate_hz: 1.0           # frames kept per second",
        "    # keep: 7d               # default: as long as its share of the disk allows",
        "    # masks: []              # parts of the picture that are never stored (docs/configuration.md)",
        "",
        "model:",
        f"  path: {_quoted(choice.encoder)}  # chooses the frames; fetched once, then from the cache",
    ]
    if choice.encoder == "builtin":
        lines.append("  allow_builtin_encoder: true  # it knows drawn pictures only: for trying out")
    lines += ["", "answerer:"]
    if not choice.base_url:
        lines.append("  kind: none               # no language model: answers name the times that stood out")
        return "\n".join(lines) + "\n"
    lines += [
        "  kind: openai             # any server with OpenAI's chat format: Ollama, vLLM, llama.cpp, LM Studio, a cloud",
        f"  base_url: {_quoted(choice.base_url)}",
        f"  model: {_quoted(choice.model)}" + ("  # it thinks before it answers, which takes longer" * choice.thinks),
    ]
    if choice.key_file:
        lines.append(f"  api_key_file: {_quoted(choice.key_file)}")
    lines += [
        "  timeout_s: 300           # loading a model and reading pictures on a CPU takes time",
        "",
        "answering:",
        "  timeout_s: 600",
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _comment(text: str) -> str:
    return f"  # {' '.join(text.split())}" if text else ""
