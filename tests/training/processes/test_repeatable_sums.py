"""MKL is asked for sums that do not depend on where memory lies, before torch is loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from training.processes.repeatable_sums import ask_mkl

ROOT = Path(__file__).parents[3]
STARTS = [ROOT / "train.py", *sorted((ROOT / "scripts").glob("*.py")), ROOT / "benchmarks/plain_loop.py"]
# What a file imports that trains, steps or multiplies; the others make tables, texts and processes.
COMPUTES = ("import torch", "from benchmarks", "from training.processes.start", "from analysis.fisher")

# Executes a file up to its first import of torch, and prints whether MKL has been asked by then.
UNTIL_TORCH = """
import runpy, sys

class Torch(BaseException):
    pass

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise Torch

sys.meta_path.insert(0, Finder())
for path in sys.argv[1:]:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("training", "analysis", "benchmarks")]:
        del sys.modules[name]
    try:
        runpy.run_path(path, run_name="imported")
    except Torch:
        print(path, "training.processes.repeatable_sums" in sys.modules)
"""


@pytest.fixture
def without_torch(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    for name in ("MKL_CBWR", "MKL_DYNAMIC"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("vendor", "family", "asked"),
    [
        ("GenuineIntel", 6, "AUTO,STRICT"),
        ("AuthenticAMD", 23, None),
        ("AuthenticAMD", 25, "AUTO,STRICT"),
        ("HygonGenuine", 25, None),
        (None, 0, None),
    ],
)
def test_processors_with_a_fast_mode_are_asked(without_torch, tmp_path, vendor, family, asked):
    processor = tmp_path / "cpuinfo"
    if vendor:
        processor.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: 1\n")
    ask_mkl(processor)
    assert os.environ.pop("MKL_CBWR", None) == asked
    assert os.environ.pop("MKL_DYNAMIC") == "FALSE"


def test_a_users_own_mode_stays(without_torch, monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text("vendor_id\t: GenuineIntel\n")
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    monkeypatch.setenv("MKL_DYNAMIC", "TRUE")
    ask_mkl(tmp_path / "cpuinfo")
    assert (os.environ["MKL_CBWR"], os.environ["MKL_DYNAMIC"]) == ("AVX2", "TRUE")


def test_a_program_that_has_loaded_torch_is_left_alone(monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text("vendor_id\t: GenuineIntel\n")
    monkeypatch.delenv("MKL_CBWR", raising=False)
    ask_mkl(tmp_path / "cpuinfo")
    assert "torch" in sys.modules and "MKL_CBWR" not in os.environ


def test_every_command_that_computes_asks_before_it_loads_torch():
    computing = [path for path in STARTS if any(f"\n{words}" in path.read_text() for words in COMPUTES)]
    assert len(computing) > 6
    command = [sys.executable, "-c", UNTIL_TORCH, *map(str, computing)]
    seen = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert sorted(seen.splitlines()) == sorted(f"{path} True" for path in computing)
