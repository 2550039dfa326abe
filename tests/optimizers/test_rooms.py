"""The rooms of optimizers/: which imports which, and what a method's file may know."""

import ast
from pathlib import Path

import pytest

import optimizers

FOLDER = Path(optimizers.__file__).parent
METHODS = sorted(path for path in FOLDER.glob("*.py") if path.name != "__init__.py")
# The rooms that the files of a room may import at module level, beside their own.
BELOW = {
    "engine": {"functional", "parallel", "kernels"},
    "parallel": {"engine", "functional"},
    "functional": {"kernels"},
}


def rooms(path: Path) -> set[str]:
    """The rooms of optimizers/ that a file imports when it is imported; files on top are a room each."""
    depth = len(path.relative_to(FOLDER).parts)
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            found |= {node.module.partition(".")[0]} if node.module else {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_a_method_imports_engine_and_functional(path):
    allowed = {"engine", "functional", *(method.stem for method in METHODS)}
    assert rooms(path) <= allowed


@pytest.mark.parametrize("room", BELOW)
def test_rooms_import_downward(room):
    for path in (FOLDER / room).rglob("*.py"):
        assert rooms(path) - {room} <= BELOW[room], path


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_a_method_does_not_know_its_device(path):
    names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    assert not names & {"is_cuda", "is_cpu", "is_contiguous", "stride", "get_num_threads"}
