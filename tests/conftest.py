"""Markers that follow from a test's folder, and what tests of whole runs share."""

import training.processes.repeatable_sums  # noqa: F401 - before torch

# isort: split
from pathlib import Path

import pytest

from tests import tiny

# Folder of tests -> marker of every test in it. Tests in other folders carry their markers themselves.
MARKERS = {"distributed": "distributed", "faults": "faults", "gpu": "gpu"}


def pytest_collection_modifyitems(items):
    for item in items:
        room = Path(item.path).relative_to(Path(__file__).parent).parts[0]
        if room in MARKERS:
            item.add_marker(MARKERS[room])


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A folder with the text of the tiny runs."""
    return tiny.write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def whole_run(text, tmp_path_factory):
    """The folder of a tiny run that nothing disturbed."""
    import train

    run = tmp_path_factory.mktemp("whole") / "run"
    assert train.main(tiny.command(text, run)) == 0
    return run
