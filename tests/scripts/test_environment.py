"""scripts/environment.sh makes .venv, or continues one, and deletes nothing that it has not begun."""

import os
import shutil
import subprocess
import sys

import pytest

from analysis.paths import ROOT


@pytest.fixture
def environment(tmp_path):
    """Reads scripts/environment.sh in a project that needs nothing and, without an index, cannot be installed itself.

    Returns stderr.
    """
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "environment.sh", tmp_path / "scripts")
    (tmp_path / "requirements.txt").touch()
    (tmp_path / "pyproject.toml").write_text('[build-system]\nrequires = ["no-such-backend"]\n')
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.symlink_to(sys.executable)

    def environment() -> str:
        command = ["bash", "-euo", "pipefail", "-c", ". scripts/environment.sh requirements.txt"]
        variables = os.environ | {"PATH": f"{python.parent}:{os.environ['PATH']}", "PIP_NO_INDEX": "1"}
        ended = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=600)
        assert ended.returncode == 1
        return ended.stderr

    return environment


def has_pip(venv) -> bool:
    return subprocess.run([venv / "bin" / "python", "-m", "pip", "--version"], capture_output=True).returncode == 0


@pytest.mark.slow
def test_an_environment_without_pip_gets_it_and_keeps_what_it_has(environment, tmp_path):
    venv = tmp_path / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (mine,) = venv.glob("lib/python*/site-packages")
    (mine / "mine.py").touch()
    assert "the installation of requirements.txt failed" in environment()
    assert (mine / "mine.py").exists() and has_pip(venv)


@pytest.mark.slow
def test_an_environment_that_was_begun_here_is_begun_anew(environment, tmp_path):
    venv = tmp_path / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to("nothing")
    (venv / ".unfinished").touch()
    assert "the installation of requirements.txt failed" in environment()
    assert has_pip(venv) and not (venv / ".unfinished").exists()


def test_an_environment_of_somebody_else_that_is_broken_is_refused(environment, tmp_path):
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "mine").touch()
    assert "the Python of .venv has no pip and cannot get it, so nothing is installed there; move" in environment()
    assert [path.name for path in (tmp_path / ".venv").iterdir()] == ["mine"]
