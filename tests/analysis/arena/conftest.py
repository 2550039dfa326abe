"""The arena of `on_paper`, read from its file."""

import pytest

from analysis.arena.spec import read_spec
from tests.analysis.arena.on_paper import SPEC


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "small.yaml").write_text(SPEC)
    return read_spec(tmp_path / "small.yaml")
