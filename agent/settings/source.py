"""Settings from a YAML file, the environment and the command line, with errors that say where and what to do.

Precedence: command line > environment (`VILAMP_STREAMING__MAX_SESSIONS=4`) > file > defaults.
All mistakes are collected and reported together. It does not know what the settings mean.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from agent.settings.settings import Settings
from agent.settings.yaml import bounded_node, plain_value
from streaming.redact import redact, redact_text

PREFIX = "VILAMP_"
# Read by the command line itself; never settings.
RESERVED = frozenset({"VILAMP_CONFIG", "VILAMP_SERVER", "VILAMP_TOKEN"})
MAX_FILE_BYTES = 1 << 20

_MAX_SHOWN_CHARS = 100  # of a value that is wrong

Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake in the configuration: where it stands, and what to do about it."""

    place: str  # "vilamp.yaml:12: streaming.max_sesions"
    advice: str

    def __str__(self) -> str:
        return redact_text(f"{self.place}: {self.advice}")


class ConfigError(ValueError):
    """The configuration cannot be used (the writer's mistake); `mistakes` lists all that is wrong."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("\n".join(map(str, mistakes)))
        self.mistakes = tuple(mistakes)


def load_settings(
    path: Path | None, *, environ: Mapping[str, str], overrides: Mapping[str, Any] | None = None
) -> Settings:
    """Settings from the file `path` (None: no file), `environ` and `overrides` (nested, from the command line).

    Raises ConfigError with every problem found.
    """
    origins: dict[Place, str] = {}
    tree: dict[str, Any] = {}
    mistakes: list[Mistake] = []
    if path is not None:
        tree, mistakes = _read_file(path, origins)
    mistakes += _apply_environment(tree, environ, origins)
    _apply_overrides(tree, overrides or {}, origins)
    settings: Settings | None = None
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        mistakes += _explain_all(error, origins, path)
    if mistakes or settings is None:
        raise ConfigError(mistakes)
    return settings


def _read_file(path: Path, origins: dict[Place, str]) -> tuple[dict[str, Any], list[Mistake]]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        text = content.decode("utf-8-sig")
    except (OSError, ValueError) as error:  # a path with a NUL in it is a ValueError
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        return {}, [Mistake(str(path), f"cannot be read: {reason}")]
    if len(content) > MAX_FILE_BYTES:
        return {}, [Mistake(str(path), f"larger than {MAX_FILE_BYTES} bytes: is this the configuration?")]
    mistakes: list[Mistake] = []
    try:
        node = bounded_node(text)
        _note_lines(node, (), path, origins, mistakes)
        tree = None if node is None else plain_value(node)
    except yaml.YAMLError as error:
        return {}, mistakes or [_yaml_mistake(path, error)]
    if tree is None:
        return {}, mistakes
    if not isinstance(tree, dict):
        return {}, [Mistake(str(path), "must be a mapping of settings, such as `port: 8080`")]
    return tree, mistakes


def _yaml_mistake(path: Path, error: yaml.YAMLError) -> Mistake:
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
    # PyYAML quotes what it stumbled over, which may be a password that begins with * & ! % @ or `
    advice = re.sub(r"'[^']{2,}'|\"[^\"]{2,}\"", "'***'", str(problem))
    if "alias" in advice or "tag" in advice or "cannot start any token" in advice:
        advice += " (put text that begins with * & ! % @ or ` in quotes)"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return Mistake(f"{path}:{error.problem_mark.line + 1}", f"is not valid YAML: {advice}")
    return Mistake(str(path), f"is not valid YAML: {advice}")


def _note_lines(
    node: yaml.Node | None, place: Place, path: Path, origins: dict[Place, str], mistakes: list[Mistake]
) -> None:
    """Where each key stands, and the keys that stand twice (YAML itself lets the last one win silently)."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = f"{path}:{key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                mistakes.append(Mistake(line, "the name of a setting must be plain text"))
                continue
            here = (*place, str(key.value))
            origins[here] = line
            if key.value in seen:
                mistakes.append(Mistake(_place(here, origins, path), "is given twice: keep one of them"))
            seen.add(key.value)
            _note_lines(value, here, path, origins, mistakes)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            origins[*place, index] = f"{path}:{value.start_mark.line + 1}"
            _note_lines(value, (*place, index), path, origins, mistakes)


def _apply_environment(tree: dict[str, Any], environ: Mapping[str, str], origins: dict[Place, str]) -> list[Mistake]:
    mistakes = []
    for name in sorted(environ):
        text = environ[name].strip()
        # an empty variable is how compose files say "not set"
        if not name.startswith(PREFIX) or name in RESERVED or not text:
            continue
        place = _environment_place(name.removeprefix(PREFIX).lower().split("__"), tree)
        origins[place] = f"environment {name}"
        try:
            value = _environment_value(text)
        except yaml.YAMLError:
            mistakes.append(Mistake(f"environment {name}", "is not a valid value: write lists and mappings as JSON"))
            continue
        if not _put(tree, place, value):
            mistakes.append(Mistake(f"environment {name}", "names a setting inside one that is not a mapping"))
    return mistakes


def _environment_place(keys: list[str], tree: Mapping[str, Any]) -> Place:
    """VILAMP_CAMERAS__FRONT_DOOR__URL means the camera "front-door" when the file has one of that name."""
    cameras = tree.get("cameras")
    if len(keys) > 1 and keys[0] == "cameras" and isinstance(cameras, dict):
        same = [name for name in cameras if str(name).replace("-", "_") == keys[1]]
        keys = ["cameras", *(same[:1] or keys[1:2]), *keys[2:]]
    return tuple(keys)


def _environment_value(text: str) -> Any:
    if text[0] in "[{":
        node = bounded_node(text)
        return None if node is None else plain_value(node)
    return None if text.lower() in ("null", "none") else text


def _put(tree: dict[str, Any], place: Place, value: Any) -> bool:
    for key in place[:-1]:
        below = tree.get(str(key))
        if below is None:
            below = tree[str(key)] = {}
        if not isinstance(below, dict):
            return False
        tree = below
    tree[str(place[-1])] = value
    return True


def _apply_overrides(tree: dict[str, Any], overrides: Mapping[str, Any], origins: dict[Place, str]) -> None:
    for place, value in _leaves(overrides, ()):
        origins[place] = "command line"
        if not _put(tree, place, value):
            # the file has something that is no mapping there; what the command line says replaces it
            tree[str(place[0])] = overrides[str(place[0])]


def _leaves(tree: Mapping[str, Any], place: Place) -> list[tuple[Place, Any]]:
    leaves: list[tuple[Place, Any]] = []
    for key, value in tree.items():
        leaves += _leaves(value, (*place, key)) if isinstance(value, Mapping) else [((*place, key), value)]
    return leaves


def _explain_all(error: ValidationError, origins: Mapping[Place, str], path: Path | None) -> list[Mistake]:
    details = error.errors(include_url=False)
    places = [each["loc"] for each in details]
    # a list whose entries are all refused is also "too short": say only what is wrong with the entries
    kept = [
        each
        for each in details
        if each["type"] != "too_short" or not any(p[: len(each["loc"])] == each["loc"] != p for p in places)
    ]
    return [_explain(each, origins, path) for each in kept]


def _explain(details: Any, origins: Mapping[Place, str], path: Path | None) -> Mistake:
    # the dict key of a bad camera name is followed by the marker "[key]"
    place: Place = tuple(key for key in details["loc"] if key != "[key]")
    return Mistake(_place(place, origins, path), _advice(details, place))


def _advice(details: Any, place: Place) -> str:
    """What to do about one validation error, in our words where pydantic's speak of Python types."""
    kind, given = details["type"], details.get("input")
    if kind == "extra_forbidden":
        return _nearest(place)
    if kind == "missing":
        return "is missing: add it"
    if kind in ("model_type", "dict_type"):
        return f"must be a mapping of settings ({', '.join(_valid_names(place)) or 'name: value'})"
    if kind.startswith("byte_size"):
        return f'must be a number of bytes, or a text such as 4GiB (it is "{given}")'
    if kind == "too_short":
        return "needs at least one entry"
    if kind == "string_pattern_mismatch" and place == ("model", "device"):
        return f'must be "cpu", "cuda" or "cuda:0" (it is "{given}")'
    advice = str(details["msg"]).removeprefix("Value error, ")
    if kind == "value_error" or isinstance(given, (Mapping, list)):
        return advice
    return f"{advice.replace('Input should be', 'must be')} (it is {_show(given, place)})"


def _show(given: Any, place: Place) -> str:
    if re.search(r"token|credential|key|password|secret", ".".join(map(str, place))):
        return "kept secret here"
    shown = redact(given) if isinstance(given, str) else str(given)
    shown = f"{shown[:_MAX_SHOWN_CHARS]}..." if len(shown) > _MAX_SHOWN_CHARS else shown
    return f'"{shown}"' if isinstance(given, str) else shown


def _place(place: Place, origins: Mapping[Place, str], path: Path | None) -> str:
    """ "vilamp.yaml:12: streaming.max_sessions"; a missing key is placed at the part it is missing from."""
    dotted = ""
    for key in place:
        dotted += f"[{key}]" if isinstance(key, int) else f".{key}" if dotted else str(key)
    for length in range(len(place), 0, -1):
        if origin := origins.get(place[:length]):
            return f"{origin}: {dotted}"
    return f"{path or 'settings'}: {dotted}" if dotted else str(path or "settings")


def _nearest(place: Place) -> str:
    valid = _valid_names(place[:-1])
    near = difflib.get_close_matches(str(place[-1]), valid, n=1, cutoff=0.5)
    if near:
        return f'unknown setting; did you mean "{near[0]}"?'
    return f"unknown setting; valid here: {', '.join(valid)}"


def _valid_names(place: Place) -> list[str]:
    """Names that may stand in the part at `place`: ("cameras", "gate") leads to the fields of CameraSettings."""
    part: Any = Settings
    for key in place:
        if isinstance(part, type) and issubclass(part, BaseModel):
            part = part.model_fields[str(key)].annotation
        else:
            part = next((of for of in get_args(part) if isinstance(of, type) and issubclass(of, BaseModel)), None)
    return list(part.model_fields) if isinstance(part, type) and issubclass(part, BaseModel) else []
