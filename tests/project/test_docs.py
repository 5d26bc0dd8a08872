"""Documentation pages match the program: settings, metrics, routes, errors, commands, links, pictures and length."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin
from xml.etree import ElementTree

import pytest
import yaml
from pydantic import BaseModel, ByteSize
from pydantic.fields import FieldInfo
from starlette.routing import Route

from agent.ask.request import ChatRequest
from agent.cli.parser import parse
from agent.errors import Problem
from agent.settings.settings import Settings
from agent.settings.source import RESERVED, load_settings
from agent.web.app import build_app
from agent.web.auth import Auth
from tests.support.agents import running

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"]
MOST_WORDS = 20_000
"""Limit for README.md and docs/ together. Code blocks and tables count; numbers and table rules do not."""
# Defaults that depend on the machine, as the page words them.
OF_THE_MACHINE = {"data_dir": "`~/.local/share/vilamp`", "cameras.<name>.timezone": "this machine's"}
each_page = pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
UNWRAPPED = ("architecture",)


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def fenced(text: str, language: str) -> list[str]:
    """Code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


# --- settings ---


def parts_of(annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """Settings classes inside an annotation, with what stands for their key: "" or, in a dict, ".<name>"; tuple "[]"."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "", annotation
        return
    kind, inside = get_origin(annotation), get_args(annotation)
    if kind is Annotated:
        inside = inside[:1]
    suffix = {dict: ".<name>", tuple: "[]"}.get(kind, "") if kind not in (Union, UnionType) else ""
    for argument in inside:
        yield from ((suffix + deeper, part) for deeper, part in parts_of(argument))


def settings_of(part: type[BaseModel], place: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """(dotted name, field) of every setting: "streaming.ice_servers", "streaming.ice_servers[].urls", ..."""
    for name, field in part.model_fields.items():
        inner = list(parts_of(field.annotation))
        if not inner or field.description:
            yield place + name, field
        for suffix, deeper in inner:
            yield from settings_of(deeper, f"{place}{name}{suffix}.")


EVERY_SETTING = list(settings_of(Settings))


def shown_default(name: str, field: FieldInfo) -> str:
    """The default as the page shows it."""
    if name in OF_THE_MACHINE:
        return OF_THE_MACHINE[name]
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value == () or value == {}:
        return "none"
    if isinstance(value, ByteSize):
        return f"`{value.human_readable().replace('.0', '')}`"
    return f"`{yaml.safe_dump(value).splitlines()[0]}`"


@pytest.mark.parametrize(("name", "field"), EVERY_SETTING, ids=[name for name, _ in EVERY_SETTING])
def test_every_setting_has_a_row_with_its_default(name: str, field: FieldInfo) -> None:
    begins = f"`{name}` | {shown_default(name, field)} | {field.description or ''}"
    rows = [line for line in page("configuration").splitlines() if line.startswith(f"`{name}` |")]
    assert len(rows) == 1, f"docs/configuration.md needs one row {begins}"
    assert rows[0].startswith(begins)


def test_no_row_names_a_removed_setting() -> None:
    tables = page("configuration").partition("## Environment")[0]
    listed = re.findall(r"^`([^`]+)` \|", tables, re.MULTILINE)
    assert sorted(listed) == sorted(name for name, _ in EVERY_SETTING)


@each_page
def test_documented_environment_variables_exist(path: Path) -> None:
    known = {name for name, _ in EVERY_SETTING}
    for variable in set(re.findall(r"\bVILAMP_[A-Z0-9_]*[A-Z0-9]", path.read_text())) - RESERVED:
        keys = variable.removeprefix("VILAMP_").lower().split("__")
        if keys[0] == "cameras":
            keys[1] = "<name>"
        assert ".".join(keys) in known, variable


@each_page
def test_named_settings_exist(path: Path) -> None:
    """A dotted name that begins with a group of settings, such as `answering.timeout_s`, is a setting or a group."""
    known = {name.rsplit(".", count)[0] for name, _ in EVERY_SETTING for count in range(4)}
    groups = {name.partition(".")[0] for name in known} - {"alerts"}  # alerts.sqlite is a file
    for name in set(re.findall(r"`([a-z]+(?:[.][a-z_]+)+)(?:: [^`]*)?`", path.read_text())):
        assert name.partition(".")[0] not in groups or name in known, name


@each_page
def test_configuration_examples_are_valid(path: Path, tmp_path: Path) -> None:
    for example in fenced(path.read_text(), "yaml"):
        (tmp_path / "example.yaml").write_text(example)
        load_settings(tmp_path / "example.yaml", environ={})


# --- the server ---


async def test_every_metric_is_documented(tmp_path: Path) -> None:
    async with running(tmp_path, mqtt={"url": "mqtt://127.0.0.1:9"}) as agent:
        build_app(agent, Auth([], b"key"), agent.settings)
        families = list(agent.metrics.registry.collect())
    names = {f"{family.name}_total" if family.type == "counter" else family.name for family in families}
    assert set(re.findall(r"^\| `(vilamp_\w+)", page("operations"), re.MULTILINE)) == names


async def test_every_route_is_documented(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        routes = build_app(agent, Auth([], b"key"), agent.settings).routes
    text = re.sub(r"\{\w+\}|<\w+>", "*", page("asking") + page("publishing") + page("page") + page("alerts"))
    for route in routes:
        assert isinstance(route, Route)
        pattern = re.sub(r"\{[^}]+\}", "*", route.path)
        assert re.search(re.escape(pattern) + r"(?![\w/*])", text), route.path


def test_every_error_is_documented() -> None:
    table = re.findall(r"^\| (\d{3}) \| ([^|]+) \|", page("asking"), re.MULTILINE)
    listed = {(int(status), code) for status, codes in table for code in re.findall(r"`(\w+)`", codes)}

    def kinds(problem: type[Problem]) -> Iterator[type[Problem]]:
        for kind in problem.__subclasses__():
            yield kind
            yield from kinds(kind)

    raised = {(kind.status, kind.code) for kind in kinds(Problem) if kind.__module__ == "agent.errors"}
    assert raised | {(403, "wrong_scope"), (405, "invalid_request")} == listed


@pytest.mark.parametrize("name", ChatRequest.model_fields)
def test_every_request_field_is_documented(name: str) -> None:
    assert re.search(rf"^\|[^|]*`{name}[`.]", page("asking"), re.MULTILINE)


# --- commands and code ---


@each_page
def test_documented_commands_are_parsed(path: Path) -> None:
    for block in fenced(path.read_text(), "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"(\.venv/bin/)?vilamp (?!--(help|version))", line):
                parse(shlex.split(line, comments=True)[1:])


@each_page
def test_named_commands_and_targets_exist(path: Path) -> None:
    text = path.read_text()
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make (?:[A-Z_]+=\S+ )*([\w-]+)`", text)) <= targets
    for command in set(re.findall(r"`(?:\S*/)?vilamp ([a-z][a-z-]*)", text)):
        status: object = None  # `eval` and `train` pass --help on
        try:
            parse([command, "--help"])
        except SystemExit as ended:
            status = ended.code
        assert not status, command


@each_page
def test_options_of_documented_benchmarks_exist(path: Path) -> None:
    shared = (ROOT / "benchmarks" / "machine.py").read_text()
    text = path.read_text().replace("\\\n", " ")
    for module, options in re.findall(r"python -m benchmarks[.](\w+)([^`\n]*)", text):
        source = (ROOT / "benchmarks" / f"{module}.py").read_text() + shared
        for option in re.findall(r"--[a-z0-9-]+", options):
            assert f'"{option}"' in source, f"{module} {option}"


@each_page
def test_python_examples_compile(path: Path) -> None:
    for example in fenced(path.read_text(), "python"):
        compile(example, path.name, "exec")


# --- links ---


def anchors(path: Path) -> set[str]:
    """The anchors GitHub makes of headings: "What `make` does" -> "what-make-does"."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_resolve(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for target in found:
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        aim = (path.parent / file).resolve() if file else path
        assert aim.exists(), f"{path.name} links to {target}"
        assert not anchor or anchor in anchors(aim), f"{path.name} links to {target}"


def test_svg_picture_loads_nothing_from_elsewhere() -> None:
    svg = (ROOT / "docs" / "pictures" / "dataflow.svg").read_text()
    assert ElementTree.fromstring(svg).get("viewBox")
    assert "href" not in svg
    assert "@import" not in svg


# --- length, pictures, measured files ---


def test_all_pages_together_are_short_enough_to_read() -> None:
    words = {
        path.name: len([word for word in path.read_text().split() if re.search("[A-Za-z]", word)]) for path in PAGES
    }
    assert sum(words.values()) <= MOST_WORDS, words


@each_page
def test_lines_are_at_most_120_characters(path: Path) -> None:
    long = [number for number, line in enumerate(path.read_text().splitlines(), 1) if len(line) > 120]
    assert not long, f"{path.name}: lines {long}"


@each_page
def test_every_table_has_a_header(path: Path) -> None:
    """A blank line inside a table ends it, and the rows behind it are shown as text."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for table in re.findall(r"(?:^[|].*\n?)+", text, re.MULTILINE):
        assert re.match(r"[|].*\n[|](-+[|])+(\n|$)", table), table


def test_the_readme_fits_on_two_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110


@each_page
def test_pages_open_with_a_purpose_and_an_example(path: Path) -> None:
    if path.parent == ROOT or path.stem == "decisions":
        return
    opening = path.read_text().split("\n## ")[0]
    assert re.match(r"# \S.*\n\n[A-Z]", opening), "a heading, then what the page is for"
    assert re.search(r"^```", opening, re.MULTILINE), "a runnable example before the first section"


def test_every_picture_is_shown_or_linked() -> None:
    """Dark and phone pictures count as shown with the light one: `make screenshots` takes all three."""
    text = "".join(path.read_text() for path in PAGES)
    for picture in (ROOT / "docs" / "pictures").iterdir():
        assert re.sub("-(dark|phone)[.]", "-light.", picture.name) in text, picture.name


def test_every_measured_file_stands_beside_its_command() -> None:
    rows = re.findall(r"^\| \[[^]]+\]\(measured/([^)]+)\) \| (.+) \|$", page("benchmarks"), re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(path.name for path in (ROOT / "docs" / "measured").iterdir())
    for name, command in rows:
        named = re.search(r"`(?:python -m (benchmarks\.\w+)|vilamp eval|make hardening)|the same", command)
        assert named, f"{name}: {command}"
        assert not named[1] or (ROOT / f"{named[1].replace('.', '/')}.py").exists(), command
