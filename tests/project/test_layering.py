"""Allowed imports: three independent leaf packages, torch in one of them, and nothing heavy before it is needed."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEAVES = ("streaming", "memory", "model")
PARTS = (*LEAVES, "agent")


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


@functools.cache
def tops(part: str) -> set[str]:
    """Return the top-level modules that a part imports, except itself."""
    files = list((ROOT / part).rglob("*.py"))
    assert files
    return {name.partition(".")[0] for path in files for name in imported(path)} - {part}


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaves_import_no_other_part(leaf: str) -> None:
    assert tops(leaf) & {*PARTS, "tests", "benchmarks"} == set()


def test_settings_know_no_part_that_uses_them() -> None:
    names = {name for path in (ROOT / "agent" / "settings").rglob("*.py") for name in imported(path)}
    ours = {name for name in names if name.startswith("agent.")}
    assert {name for name in ours if not name.startswith(("agent.settings.", "agent.untrusted."))} == {"agent.times"}


def test_torch_stays_inside_the_model() -> None:
    assert "torch" in tops("model")
    for part in ("streaming", "memory", "agent"):
        assert tops(part) & {"torch", "transformers", "safetensors", "tokenizers"} == set()


def test_each_library_has_its_part() -> None:
    homes = {"av": {"streaming", "model"}, "aiortc": {"streaming"}, "faiss": {"memory"}, "sqlite3": {"memory", "agent"}}
    homes |= {"uvicorn": {"agent"}, "pydantic": {"agent"}, "prometheus_client": {"agent"}}
    for library, allowed in homes.items():
        assert {part for part in PARTS if library in tops(part)} <= allowed, library


def test_nothing_unpickles_or_evaluates() -> None:
    for part in PARTS:
        assert tops(part) & {"pickle", "dill", "joblib", "shelve", "marshal"} == set()
        for path in (ROOT / part).rglob("*.py"):
            calls = [node.func for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
            assert {call.id for call in calls if isinstance(call, ast.Name)} & {"eval", "exec"} == set(), path


def test_the_server_is_built_without_torch() -> None:
    """Settings, tokens, sources, memory and the HTTP application do not import torch."""
    code = "import sys, agent.web.server; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@functools.cache
def imports_between_files() -> dict[str, set[str]]:
    """Return for each module of the product the modules of the product that it imports."""
    paths = [path for part in PARTS for path in (ROOT / part).rglob("*.py")]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        names = {alias for name in imported(path) for alias in (name, f"{name}.__init__")}
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom):
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
        found[module] = names & modules.keys() - {module}
    return found


def test_no_circle_between_files() -> None:
    try:
        list(TopologicalSorter(imports_between_files()).static_order())
    except CycleError as error:
        pytest.fail(f"files import one another in a circle: {' -> '.join(error.args[1])}")


def test_agent_has_at_most_20_parts_and_80_imports_between_them() -> None:
    parts = {path.name.removesuffix(".py") for path in (ROOT / "agent").iterdir() if path.name != "__pycache__"}
    assert len(parts) <= 20
    pairs = {
        (module.split(".")[1], other.split(".")[1])
        for module, others in imports_between_files().items()
        for other in others
        if module.startswith("agent.") and other.startswith("agent.")
    }
    between = {(a, b) for a, b in pairs if a != b}
    assert len(between) <= 80
    list(TopologicalSorter({part: {b for a, b in between if a == part} for part in parts}).static_order())  # no circle


def test_no_test_module_imports_another() -> None:
    """Shared helpers belong in tests/support."""
    modules = list((ROOT / "tests").rglob("test_*.py"))
    assert len({path.name for path in modules}) == len(modules) > 100
    for path in (ROOT / "tests").rglob("*.py"):
        shared = {name for name in imported(path) if name.startswith("tests.")}
        assert {name.split(".")[1] for name in shared} <= {"support", "hardening"}, path


def product() -> dict[str, ast.Module]:
    """Return the syntax tree of every file of the product by its path."""
    paths = [path for part in PARTS for path in (ROOT / part).rglob("*.py")]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in paths}


CARRIED_ELSEWHERE = {"streaming/handoff.py": 1}  # the awaiting task raises what the worker thread caught


def test_every_exception_is_caught_in_one_place_only() -> None:
    """`except Exception` and broader stand in the supervisor, and elsewhere only where they raise again."""
    broad = {"Exception", "BaseException", "BaseExceptionGroup", "CancelledError"}
    found: dict[str, int] = {}
    for name, tree in product().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            types = {each.id for each in ast.walk(node.type) if isinstance(each, ast.Name)} if node.type else broad
            raises = any(isinstance(each, ast.Raise) for line in node.body for each in ast.walk(line))
            if types & broad and not raises and name != "agent/runtime/supervisor.py":
                found[name] = found.get(name, 0) + 1
    assert found == CARRIED_ELSEWHERE


def test_functions_are_short() -> None:
    long = [
        f"{name}.{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for name, tree in product().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno >= 60
    ]
    assert long == []
