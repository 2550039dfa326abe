"""Imports of the rooms above training run one way, without a circle."""

import ast
from graphlib import TopologicalSorter

import pytest

from analysis.paths import ROOT

BELOW = {"analysis": set(), "benchmarks": {"analysis"}, "experiments": {"analysis"}}
BELOW["scripts"] = {*BELOW}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for room in BELOW
    for path in ROOT.glob(f"{room}/**/*.py")
}


def imported(module: str) -> set[str]:
    """The modules of these rooms that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & set(MODULES)


@pytest.mark.parametrize("room", BELOW)
def test_a_room_imports_the_rooms_below_alone(room):
    for module in MODULES:
        if module.split(".")[0] == room:
            rooms = {name.split(".")[0] for name in imported(module)}
            assert rooms <= {room, *BELOW[room]}, module


def test_no_modules_import_each_other():
    assert list(TopologicalSorter({module: imported(module) for module in MODULES}).static_order())
