"""The variables by which a launcher tells a process its place."""

import pytest

from configs.schema import SettingsError
from training.processes.launch_variables import launched


@pytest.mark.parametrize(("text", "words"), [("0", "is 0, no number of processes"), ("9" * 5000, "not a number")])
def test_a_number_of_processes_that_cannot_be(monkeypatch, text, words):
    monkeypatch.setenv("WORLD_SIZE", text)
    with pytest.raises(SettingsError, match=f"WORLD_SIZE .*{words}: unset it"):
        launched("WORLD_SIZE", 1)
