"""scripts/results.sh makes results/ of its records, byte for byte, as CONTRIBUTING.md promises."""

import os
import shutil
import subprocess
import sys

import pytest

from analysis.paths import ROOT

MADE = ("full/table2.md", "nano/table2.csv", "arena/nano_tuning.md", "nano/figures/figure2.svg", "report.html")


@pytest.mark.slow
def test_results_are_made_again_to_the_same_bytes(tmp_path):
    """In a copy of the project, so that a difference does not end up in this one."""
    copy = tmp_path / "project"
    for folder in (
        "analysis",
        "configs",
        "data",
        "experiments",
        "models",
        "optimizers",
        "results",
        "scripts",
        "training",
    ):
        shutil.copytree(ROOT / folder, copy / folder)
    before = {path: path.read_bytes() for path in (copy / "results").rglob("*") if path.is_file()}
    for path in before:
        os.utime(path, (0, 0))
    environment = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(copy)}
    subprocess.run(["scripts/results.sh"], cwd=copy, env=environment, check=True, capture_output=True, timeout=600)
    after = {path: path.read_bytes() for path in (copy / "results").rglob("*") if path.is_file()}
    made = [path for path in after if path.stat().st_mtime > 0]
    assert {copy / "results" / name for name in MADE} <= set(made)
    assert [path for path in made if after[path] != before.get(path)] == []
