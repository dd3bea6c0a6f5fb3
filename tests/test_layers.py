"""The tree's own rules: who may import whom, and how long a file or a function may get."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"engine": {"engine"}, "realtime": {"engine", "realtime"}, "trainer": {"engine", "trainer"}}
ENGINE_NEEDS = {"numpy", "cv2", "soxr", "onnxruntime", "openvino", "numba"}
BUILDING = ("build", *(f"plans/{name}" for name in ("builders", "graphs", "precision", "programs")))
BUILDS = {f"engine/{name}.py" for name in (*BUILDING, "plans/inductor_build")}
"""They run when a plan is built, never live, and may rewrite and compile graphs."""

FILE_LINES, FUNCTION_LINES = 400, 60
LONG_FILES: dict[str, int] = {}
LONG_FUNCTIONS: dict[str, int] = {}
"""Exceptions, each with the length it has; none may grow, and one that is no longer needed must go."""


def sources(package: str) -> Iterator[tuple[str, ast.Module, int]]:
    for file in sorted((ROOT / package).rglob("*.py")):
        text = file.read_text()
        yield file.relative_to(ROOT).as_posix(), ast.parse(text), len(text.splitlines())


def imported(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            found.add(str(node.module).split(".")[0])
    return found


@pytest.mark.parametrize("package", OURS)
def test_imports_go_one_way(package: str) -> None:
    ours = set(OURS) | {"benchmarks", "tests"}
    for name, tree, _ in sources(package):
        strangers = (imported(tree) & ours) - OURS[package]
        assert not strangers, f"{name} imports {strangers}"


def test_the_engine_needs_little() -> None:
    for name, tree, _ in sources("engine"):
        allowed = ENGINE_NEEDS | ({"onnx", "torch"} if name in BUILDS else set())
        strangers = imported(tree) - allowed - {"engine"} - sys.stdlib_module_names
        assert not strangers, f"{name} imports {strangers}"


def test_the_runtime_does_not_need_what_trains() -> None:
    for name, tree, _ in sources("realtime"):
        strangers = imported(tree) & {"torch", "onnx", "scipy", "sklearn", "safetensors"}
        assert not strangers, f"{name} imports {strangers}"


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import engine", {"numpy", "cv2", "onnxruntime", "openvino", "torch", "numba"}),
        ("import engine.types, engine.errors", {"cv2", "onnxruntime", "openvino", "torch"}),
        (
            "from engine import Recognizer",
            {"onnxruntime", "openvino", "torch", "onnx", "av", "numba", "tensorrt"},
        ),
    ],
)
def test_importing_brings_no_more_than_is_used(statement: str, absent: set[str]) -> None:
    code = f"import sys; {statement}; print(*(set(sys.modules) & {absent}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("package", [*OURS, "benchmarks", "tests"])
def test_files_and_functions_stay_short(package: str) -> None:
    for name, tree, lines in sources(package):
        assert lines <= LONG_FILES.get(name, FILE_LINES), f"{name} has {lines} lines"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                limit = LONG_FUNCTIONS.get(f"{name}:{node.name}", FUNCTION_LINES)
                assert length <= limit, f"{name}:{node.name} has {length} lines"


def test_exceptions_are_still_needed() -> None:
    for name, allowed in LONG_FILES.items():
        lines = len((ROOT / name).read_text().splitlines())
        assert FILE_LINES < lines <= allowed, f"{name} has {lines} lines"
    for place in LONG_FUNCTIONS:
        name, function = place.split(":")
        tree = ast.parse((ROOT / name).read_text())
        lengths = [
            (node.end_lineno or 0) - node.lineno + 1
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.name == function
        ]
        assert any(length > FUNCTION_LINES for length in lengths), f"{place} is short by now"
