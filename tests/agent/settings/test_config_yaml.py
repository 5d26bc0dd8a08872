"""Hostile configuration files are refused quickly, with a message and without a traceback."""

from pathlib import Path

import pytest

from agent.settings.source import ConfigError, load_settings
from tests.support.processes import vilamp


def doubling(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, levels)]
    return "\n".join(lines)


HOSTILE = {
    "aliases that multiply": (doubling(30), "aliases stand for more than"),
    "merges that multiply": (doubling(30) + "\nb: {<<: *a29}", "aliases stand for more than"),
    "levels": ("a: " + "[" * 10_000, "levels deep"),
    "levels of mappings": ("{a: " * 10_000, "levels deep"),
    "levels of aliases": ("\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 2000))]), "levels"),
    "a value within itself": ("a: &a [*a]", "contains itself"),
    "many values": ("a: [" + "1," * 21_000 + "]", "more than 20000 values"),
    "a long number": ("port: " + "9" * 5000, "cannot be read"),
    "a long text": ("host: " + "x" * 900_000, "host"),
    "a date there is none of": ("port: 2026-02-31", "cannot be read"),
    "the same twice": ("port: 1\nport: 2", "is given twice"),
    "a tag": ("port: !!python/object/apply:os.system ['id']", "is not valid YAML"),
    "an alias of nothing": ("port: *x", "is not valid YAML"),
    "names that are lists": ("? [a, b]\n: 1", "must be plain text"),
    "two documents": ("port: 1\n---\nport: 2", "is not valid YAML"),
    "control characters": ("port: \x01", "is not valid YAML"),
    "no text": ("\udcff", "not UTF-8"),
    "only a list": ("- a", "must be a mapping"),
    "too large": ("#" * (1 << 20) + "\n#", "larger than"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_with_a_short_message(tmp_path: Path, name: str) -> None:
    text, words = HOSTILE[name]
    path = tmp_path / "vilamp.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    if name == "a long text":  # it is a host like any other, as far as the file goes
        assert len(load_settings(path, environ={}).host) == 900_000
        return
    with pytest.raises(ConfigError, match=words) as refused:
        load_settings(path, environ={})
    assert len(str(refused.value)) < 5000


@pytest.mark.parametrize("name", ["aliases that multiply", "levels"])
def test_check_config_prints_that_message(tmp_path: Path, name: str) -> None:
    path = tmp_path / "vilamp.yaml"
    path.write_text(HOSTILE[name][0])
    ran = vilamp("check-config", str(path))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert HOSTILE[name][1] in ran.stderr
    assert "Traceback" not in ran.stderr


def test_aliases_that_repeat_a_setting_work(tmp_path: Path) -> None:
    path = tmp_path / "vilamp.yaml"
    path.write_text("cameras: {a: &one {rate_hz: 2}, b: *one, c: {<<: *one, max_width: 640}}")
    cameras = load_settings(path, environ={}).cameras
    assert [(each.rate_hz, each.max_width) for each in cameras.values()] == [(2, 1280), (2, 1280), (2, 640)]


def test_hostile_environment_variables_are_refused() -> None:
    for text in ("[" * 10_000, "{a: &a [*a]}", "[" + "1," * 21_000 + "]"):
        with pytest.raises(ConfigError, match="environment VILAMP_CAMERAS"):
            load_settings(None, environ={"VILAMP_CAMERAS": text})


@pytest.mark.parametrize("named", ["a\0b", ".", "absent/vilamp.yaml"])
def test_paths_that_are_not_files_are_refused(named: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(Path(named), environ={})
