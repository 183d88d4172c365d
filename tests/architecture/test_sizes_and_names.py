import ast
import statistics
from collections.abc import Iterator

from tests.architecture.source import name_of, python_files

LARGEST_FILE = 400
ARGUED_ABOVE = 300
ARGUED: dict[str, str] = {}  # a file (no test) of more than 300 lines, and why it is one
LARGEST_FUNCTION = 50
MEDIAN_FUNCTION = 10
DRAWERS = {"utils", "util", "helpers", "helper", "common", "misc"}


def num_lines(file) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def function_sizes() -> Iterator[tuple[int, str]]:
    for file in python_files("liger", "gateway", "controller", "worker", "bench"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield (node.end_lineno or node.lineno) - node.lineno + 1, f"{name_of(file)}: {node.name}"


def test_no_file_is_longer_than_its_limit():
    long = {name_of(file): num_lines(file) for file in python_files()}
    limit = {name: LARGEST_FILE if name in ARGUED or name.startswith("tests/") else ARGUED_ABOVE for name in long}
    assert {name: size for name, size in long.items() if size > limit[name]} == {}


def test_every_argued_file_is_still_long():
    long = {name_of(file) for file in python_files() if num_lines(file) > ARGUED_ABOVE}
    assert set(ARGUED) <= long


def test_functions_are_small():
    sizes = list(function_sizes())
    assert [where for size, where in sizes if size > LARGEST_FUNCTION] == []
    assert statistics.median(size for size, _ in sizes) <= MEDIAN_FUNCTION


def test_no_module_is_a_drawer():
    parts = {name_of(file): {part.removesuffix(".py") for part in file.parts} for file in python_files()}
    assert [name for name, own in parts.items() if own & DRAWERS] == []
