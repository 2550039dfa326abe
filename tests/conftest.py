"""What tests of whole runs share."""

import pytest

from tests import tiny


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
