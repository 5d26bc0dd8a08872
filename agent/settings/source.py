"""Read settings from a YAML file, the environment and the command line, and report every mistake with its place.

Precedence: the command line overrides the environment (`VILAMP_STREAMING__MAX_SESSIONS=4`), which overrides the file,
which overrides the defaults. pydantic-settings is not used, because it ignores an unknown VILAMP_ variable and cannot
say in which line of the file a mistake is.

In this module a place is a setting's path of keys, such as ("streaming", "max_sessions").
"""

import difflib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from agent.settings.removed import Place, take_removed
from agent.settings.settings import Settings
from agent.settings.yaml import bounded_node, plain_value
from streaming.redact import redact, redact_text

PREFIX = "VILAMP_"
# Variables that the command line itself reads; they are not settings.
RESERVED = frozenset({"VILAMP_CONFIG", "VILAMP_SERVER", "VILAMP_TOKEN"})
MAX_FILE_BYTES = 1 << 20
_MAX_SHOWN_CHARS = 100  # of a wrong value in an error message

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake in the configuration, and what to do about it."""

    place: str  # where it is: "vilamp.yaml:12: streaming.max_sesions"
    advice: str  # what to do about it

    def __str__(self) -> str:
        return redact_text(f"{self.place}: {self.advice}")


class ConfigError(ValueError):
    """The configuration has mistakes; `mistakes` lists them all."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("\n".join(map(str, mistakes)))
        self.mistakes = tuple(mistakes)


def load_settings(
    path: Path | None,
    *,
    environ: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
    warn: Callable[[Mistake], None] = log.warning,
) -> Settings:
    """Return the settings from the file `path`, the environment and the command line. Raises ConfigError.

    path: None for no file. overrides: nested settings from the command line. warn: called for each setting that earlier
    versions had and this one has not.
    """
    draft = _Draft(path)
    draft.read_environment(environ)
    draft.override(overrides or {})
    tree, removed = take_removed(draft.tree)
    settings: Settings | None = None
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        draft.mistakes += draft.explain(error)
    if draft.mistakes or settings is None:
        raise ConfigError(draft.mistakes)
    for place, words in removed.items():
        warn(Mistake(draft.locate(place), words))
    return settings


class _Draft:
    """Settings while they are read: nested plain values, where each was written, and the mistakes found so far."""

    def __init__(self, path: Path | None) -> None:
        self.tree: dict[str, Any] = {}
        self.mistakes: list[Mistake] = []
        self._path = path
        self._origins: dict[Place, str] = {}  # such as "vilamp.yaml:12" or "environment VILAMP_PORT"
        if path is not None:
            self._read_file(path)

    def _read_file(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
            text = content.decode("utf-8-sig")
        except (OSError, ValueError) as error:  # a path that contains NUL raises ValueError
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            self._mistake(str(path), f"cannot be read: {reason}")
            return
        if len(content) > MAX_FILE_BYTES:
            self._mistake(str(path), f"larger than {MAX_FILE_BYTES} bytes: is this the configuration?")
            return
        try:
            node = bounded_node(text)
            if node is not None:
                self._note_lines(node, ())
                tree = plain_value(node)
                if isinstance(tree, dict):
                    self.tree = tree
                else:
                    self._mistake(str(path), "must be a mapping of settings, such as `port: 8080`")
        except yaml.YAMLError as error:
            if not self.mistakes:
                self._mistake(*_yaml_mistake(path, error))

    def _note_lines(self, node: yaml.Node, place: Place) -> None:
        """Record the line of each key in the YAML `node`.

        Report a key that is given twice: YAML would use the last one.

        place: the path of keys of the node.
        """
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                line = f"{self._path}:{key.start_mark.line + 1}"
                if not isinstance(key, yaml.ScalarNode):
                    self._mistake(line, "the name of a setting must be plain text")
                    continue
                here = (*place, str(key.value))
                self._origins[here] = line
                if key.value in seen:
                    self._mistake(self.locate(here), "is given twice: keep one of them")
                seen.add(key.value)
                self._note_lines(value, here)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._origins[*place, index] = f"{self._path}:{value.start_mark.line + 1}"
                self._note_lines(value, (*place, index))

    def read_environment(self, environ: Mapping[str, str]) -> None:
        """Set the settings that VILAMP_ variables name.

        An empty variable counts as not set, because that is how compose files pass on a variable that is not set.
        """
        for name in sorted(environ):
            text = environ[name].strip()
            if not name.startswith(PREFIX) or name in RESERVED or not text:
                continue
            origin = f"environment {name}"
            place = self._variable_place(name)
            self._origins[place] = origin
            try:
                value = _variable_value(text)
            except yaml.YAMLError:
                self._mistake(origin, "is not a valid value: write lists and mappings as JSON")
                continue
            if not self._put(place, value):
                self._mistake(origin, "names a setting inside one that is not a mapping")

    def _variable_place(self, name: str) -> Place:
        """Return the path of keys that an environment variable names.

        It is ("cameras", "front_door", "url") for VILAMP_CAMERAS__FRONT_DOOR__URL.

        If the file has a camera "front-door", that one is meant, because a variable's name cannot contain "-".
        """
        keys = name.removeprefix(PREFIX).lower().split("__")
        cameras = self.tree.get("cameras")
        if len(keys) > 1 and keys[0] == "cameras" and isinstance(cameras, dict):
            keys[1] = next((str(each) for each in cameras if str(each).replace("-", "_") == keys[1]), keys[1])
        return tuple(keys)

    def override(self, overrides: Mapping[str, Any]) -> None:
        """Set the settings that the command line gives."""
        for place, value in _leaves(overrides, ()):
            self._origins[place] = "command line"
            if not self._put(place, value):  # it would be inside a plain value: replace that value
                self.tree[str(place[0])] = overrides[str(place[0])]

    def _put(self, place: Place, value: Any) -> bool:
        """Set the value at the path of keys `place`. Return False if the path leads into a value that is no mapping."""
        tree = self.tree
        for key in place[:-1]:
            if tree.get(str(key)) is None:
                tree[str(key)] = {}
            tree = tree[str(key)]
            if not isinstance(tree, dict):
                return False
        tree[str(place[-1])] = value
        return True

    def explain(self, error: ValidationError) -> Iterator[Mistake]:
        """Yield the mistakes that pydantic found, in words that suit a configuration file."""
        details = error.errors(include_url=False)
        places = [each["loc"] for each in details]
        for each in details:
            loc = each["loc"]
            if each["type"] == "too_short" and any(other[: len(loc)] == loc != other for other in places):
                continue  # the list counts as empty because all its entries are wrong: only these are reported
            place = tuple(key for key in loc if key != "[key]")  # pydantic adds "[key]" after a wrong camera name
            yield Mistake(self.locate(place), _advice(each, place))

    def locate(self, place: Place) -> str:
        """Return where the setting at the path of keys `place` was written: "vilamp.yaml:12: streaming.max_sessions".

        For a setting that was not written, the line is that of the nearest mapping around it.
        """
        dotted = ""
        for key in place:
            dotted += f"[{key}]" if isinstance(key, int) else f".{key}" if dotted else str(key)
        for length in range(len(place), 0, -1):
            if origin := self._origins.get(place[:length]):
                return f"{origin}: {dotted}"
        return f"{self._path or 'settings'}: {dotted}" if dotted else str(self._path or "settings")

    def _mistake(self, place: str, advice: str) -> None:
        self.mistakes.append(Mistake(place, advice))


def _yaml_mistake(path: Path, error: yaml.YAMLError) -> tuple[str, str]:
    """Return where the YAML is wrong ("vilamp.yaml:12"), and what is wrong with it."""
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
    # PyYAML quotes the text it cannot read, which may be a password that begins with * & ! % @ or `
    advice = re.sub(r"'[^']{2,}'|\"[^\"]{2,}\"", "'***'", str(problem))
    if "alias" in advice or "tag" in advice or "cannot start any token" in advice:
        advice += " (put text that begins with * & ! % @ or ` in quotes)"
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    return str(path) if mark is None else f"{path}:{mark.line + 1}", f"is not valid YAML: {advice}"


def _variable_value(text: str) -> Any:
    """Return the value in an environment variable's text.

    Text that begins with "[" or "{" is parsed as JSON or YAML, "null" and "none" are None, and anything else is plain
    text.
    """
    if text[0] in "[{":
        node = bounded_node(text)
        return None if node is None else plain_value(node)
    return None if text.lower() in ("null", "none") else text


def _leaves(tree: Mapping[str, Any], place: Place) -> Iterator[tuple[Place, Any]]:
    """Yield (path of keys, value) for everything in the nested settings `tree` that is not a mapping.

    place: the path of `tree` itself.
    """
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*place, key))
        else:
            yield (*place, key), value


def _advice(details: ErrorDetails, place: Place) -> str:
    """Return what to do about one validation error of pydantic.

    place: the path of keys of the setting with the error.
    """
    kind, given = details["type"], details["input"]
    if kind == "extra_forbidden":
        valid = _valid_names(place[:-1])
        near = difflib.get_close_matches(str(place[-1]), valid, n=1, cutoff=0.5)
        return (
            f'unknown setting; did you mean "{near[0]}"?'
            if near
            else f"unknown setting; valid here: {', '.join(valid)}"
        )
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
    advice = details["msg"].removeprefix("Value error, ")
    if kind == "value_error" or isinstance(given, (Mapping, list)):
        return advice
    return f"{advice.replace('Input should be', 'must be')} (it is {_shown(given, place)})"


def _shown(given: object, place: Place) -> str:
    """Return the text by which an error message shows `given`, the invalid value of the setting at `place`.

    Secrets and passwords in addresses are hidden, long text is cut. place: the setting's path of keys.
    """
    if re.search(r"token|credential|key|password|secret", ".".join(map(str, place))):
        return "kept secret here"
    shown = redact(given) if isinstance(given, str) else str(given)
    shown = f"{shown[:_MAX_SHOWN_CHARS]}..." if len(shown) > _MAX_SHOWN_CHARS else shown
    return f'"{shown}"' if isinstance(given, str) else shown


def _valid_names(place: Place) -> list[str]:
    """Return the names of the settings that are valid below `place`, a path of keys.

    For ("cameras", "gate"), a camera called "gate", they are the fields of CameraSettings.
    """
    part: Any = Settings
    for key in place:
        if isinstance(part, type) and issubclass(part, BaseModel):
            part = part.model_fields[str(key)].annotation
        else:
            part = next((of for of in get_args(part) if isinstance(of, type) and issubclass(of, BaseModel)), None)
    return list(part.model_fields) if isinstance(part, type) and issubclass(part, BaseModel) else []
