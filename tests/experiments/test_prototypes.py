"""Prototypes fulfil the contract of every optimizer, although they are outside the package."""

import re
import subprocess
import sys

import pytest

from analysis.paths import ROOT

PROTOTYPES = sorted((ROOT / "experiments" / "beyond").glob("[!_]*.py"))


@pytest.mark.parametrize("path", PROTOTYPES, ids=lambda path: path.stem)
def test_a_prototype_fulfils_the_contract(path):
    (name,) = re.findall(r'^@register\("(\w+)"', path.read_text(), flags=re.M)
    contract = ("tests/optimizers/test_contract.py", f"--optimizer-file={path}", "-k", name, "-p", "no:cacheprovider")
    done = subprocess.run([sys.executable, "-m", "pytest", *contract], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
