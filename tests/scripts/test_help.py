"""Every script says what it does, and does nothing else, when it is asked for help."""

import runpy
import sys

import pytest

from analysis.paths import ROOT

SCRIPTS = [ROOT / "train.py", *sorted((ROOT / "scripts").glob("*.py"))]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_is_the_text_at_the_top_of_the_script(script, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    code = 0
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        code = end.code
    first = script.read_text().split('"""')[1].strip().splitlines()[0]
    assert not code
    assert " ".join(first.split()) in " ".join(capsys.readouterr().out.split())
    assert list(tmp_path.iterdir()) == []
