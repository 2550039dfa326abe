"""A method that settings name by its Python file."""

import json
import re

import pytest

from configs import identity
from configs.reading import FOLDER
from tests.configs.test_schema import config, refusal

METHOD = """
from optimizers.muon import Muon
from .engine import register


@register("{name}", momentum=0.5)
class Mine(Muon):
    "Muon under another name."
"""

OPTION = """
from typing import Annotated
from optimizers.muon import Muon
from optimizers.engine import register
from optimizers.engine.options import Option, Params

@register("mine")
class Mine(Muon):
    def __init__(self, params: Params, kind: Annotated[{}, Option("what it is")] = None):
        super().__init__(params)
"""
KINDS = "the option kind must be a float, an int, a bool, a Literal, or a tuple of as many floats as are named"


@pytest.fixture
def method_file(tmp_path):
    """Writes a Python file that registers a method."""

    def write(name, body=METHOD, file="mine.py"):
        (tmp_path / file).write_text(body.format(name=name))
        return str(tmp_path / file)

    return write


def test_a_python_file_is_an_optimizer(method_file, write):
    file = method_file("mine_a")
    got = config(f"optimizer={file}", "optimizer.lr=0.01").optimizer
    assert (got.name, got.file, got.lr, got.momentum) == ("mine_a", file, 0.01, 0.5)
    changed = config(write(f"base: {FOLDER}/quickstart.yaml\noptimizer: {{base: {file}, lr: 0.02, momentum: 0.7}}\n"))
    assert (changed.optimizer.name, changed.optimizer.momentum) == ("mine_a", 0.7)
    again = config(write(json.dumps(identity.to_dict(changed))))  # as a run's config.yaml
    assert again == changed and identity.config_hash(again) == identity.config_hash(changed)


def test_a_python_file_is_found_below_the_project(method_file, monkeypatch, tmp_path):
    method_file("mine_b", file="below.py")
    monkeypatch.setattr("configs.method_files.FOLDER", tmp_path / "configs")
    assert config("optimizer=below.py", "optimizer.lr=0.01").optimizer.name == "mine_b"


def test_a_python_file_is_run_once_however_it_is_spelled(method_file, monkeypatch, tmp_path):
    file = method_file("mine_e", file="twice.py")
    monkeypatch.chdir(tmp_path)
    for spelled in (file, "twice.py", "./twice.py"):
        assert config(f"optimizer={spelled}", "optimizer.lr=0.01").optimizer.name == "mine_e"


def test_of_several_methods_in_a_file_one_is_named(method_file):
    file = method_file("mine_c", METHOD + "register('mine_d')(Mine)\n")
    assert refusal(f"optimizer={file}", "optimizer.lr=0.01") == "optimizer.name is required: one of mine_c, mine_d"
    text = refusal(f"optimizer={file}", "optimizer.lr=0.01", "optimizer.name=muon")
    assert text == "optimizer.name must be one of mine_c, mine_d, got 'muon'"
    assert config(f"optimizer={file}", "optimizer.lr=0.01", "optimizer.name=mine_d").optimizer.momentum == 0.95


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("1 / 0\n", "mine.py cannot be run: ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)\n", "mine.py cannot be run: SystemExit: 3"),
        ("x = (\n", "mine.py cannot be run: SyntaxError: '(' was never closed (mine.py, line 1)"),
        ("import torch\n", 'mine.py registers no method; decorate its class with @register("name")'),
        (METHOD, "mine.py cannot be run: ValueError: the optimizer name 'muon' is taken by Muon"),
        (OPTION.format("str"), f"mine.py cannot be run: TypeError: {KINDS}, not <class 'str'>"),
        (OPTION.format("list[int]"), f"mine.py cannot be run: TypeError: {KINDS}, not list[int]"),
        (OPTION.format("tuple[float, ...]"), f"mine.py cannot be run: TypeError: {KINDS}, not tuple[float, ...]"),
        (None, "mine.py does not exist"),
    ],
)
def test_a_python_file_without_a_method_is_refused(method_file, write, tmp_path, body, words):
    file = method_file("muon", body) if body else str(tmp_path / "mine.py")
    text = refusal(write(f"optimizer: {{base: {file}, lr: 0.01}}\n", "b.yaml"))
    assert text.startswith(f"{tmp_path}/b.yaml line 1: optimizer file ")
    assert re.sub(r" \(line \d+\)$", "", text).endswith(words)


def test_the_line_that_fails_is_named(method_file):
    file = method_file("mine_f", METHOD + "1 / 0", file="of.version.2.py")
    assert refusal(f"optimizer={file}").endswith(f"division by zero (line {len(METHOD.splitlines()) + 1})")


def test_an_optimizer_file_that_is_no_python_file_is_refused(write):
    text = refusal(f"optimizer.file={write('x', 'mine.txt')}", "optimizer.name=mine")
    assert text.endswith("mine.txt is no Python file: its name must end in .py")
