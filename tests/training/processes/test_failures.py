"""From an error to a sentence and an exit code."""

import pytest
import torch

from configs.schema import SettingsError
from data.data_errors import DataError
from training.processes.failures import Ending, settings_errors
from training.processes.signals import Interrupted
from training.processes.watchdog import PeerFailed
from training.run_errors import RunFolderError, SaveError


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (SettingsError("train.steps is wrong"), 2, "train.steps is wrong\n"),
        (DataError("a.jsonl, line 3: no text"), 2, "a.jsonl, line 3: no text\n"),
        (RunFolderError("run.dir: in use"), 2, "run.dir: in use\n"),
        (SaveError("cannot save"), 1, "cannot save\n"),
        (OSError("broken"), 1, "broken\n"),
        (PeerFailed("process 1 failed: text", 2), 2, "process 1 failed: text\n"),
        (Interrupted(15), 143, "interrupted; there is nothing to save\n"),
        (KeyboardInterrupt(), 130, "interrupted; there is nothing to save\n"),
        (torch.OutOfMemoryError("20 GiB\nand more"), 1, "out of memory; lower train.micro_batch_size (20 GiB)\n"),
    ],
)
def test_an_error_is_one_sentence_and_a_code(error, code, said, capsys):
    with Ending() as ending:
        raise error
    assert ending.code == code
    assert capsys.readouterr().err == said


def test_a_defect_shows_its_traceback(capsys):
    with Ending() as ending:
        raise KeyError("basis")
    said = capsys.readouterr().err
    assert ending.code == 1
    assert "Traceback" in said and said.endswith("KeyError: 'basis'\n")


def test_a_program_without_an_error_keeps_its_exit_code():
    with Ending() as ending:
        pass
    assert ending.code == 0
    with Ending() as ending:
        ending.code = 143
    assert ending.code == 143


@pytest.mark.parametrize("error", [ValueError("rank is too large"), ImportError("needs a package")])
def test_errors_of_construction_become_settings_errors(error):
    with pytest.raises(SettingsError, match=str(error)), settings_errors():
        raise error


@pytest.mark.parametrize("error", [DataError("text"), SaveError("text"), KeyError("text")])
def test_other_errors_pass(error):
    with pytest.raises(type(error)), settings_errors():
        raise error
