"""Markers that follow from a test's folder, and what tests of whole runs share."""

import training.processes.repeatable_sums  # noqa: F401 - before torch

# isort: split
import contextlib
from pathlib import Path

import pytest
import torch

from configs import method_files
from configs.reading import SettingsError
from optimizers import registry
from tests import tiny

# Folder of tests -> marker of every test in it. Tests in other folders carry their markers themselves.
MARKERS = {"distributed": "distributed", "faults": "faults", "gpu": "gpu"}

REDUCED = ("allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")


def pytest_addoption(parser):
    parser.addoption("--optimizer-file", action="append", default=[], help="test the methods of this Python file too")


def pytest_configure(config):
    for file in config.getoption("--optimizer-file"):
        try:
            method_files.register_file(file)
        except SettingsError as error:
            raise pytest.UsageError(str(error)) from error


def pytest_collection_modifyitems(items):
    for item in items:
        room = Path(item.path).relative_to(Path(__file__).parent).parts[0]
        if room in MARKERS:
            item.add_marker(MARKERS[room])


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A folder with the text of the tiny runs."""
    return tiny.write_text(tmp_path_factory.mktemp("text"))


@contextlib.contextmanager
def kept_settings():
    """What a run sets in torch for its process is as before at the end."""
    products = torch.backends.cuda.matmul
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    reduced = {name: getattr(products, name) for name in REDUCED}
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        for name, value in reduced.items():
            setattr(products, name, value)


@pytest.fixture(autouse=True)
def forgotten_methods():
    """Methods that a test registers, or that a file which its settings name does, are forgotten after it."""
    known = dict(registry._METHODS)
    yield
    if known != registry._METHODS:
        registry._METHODS.clear()
        registry._METHODS.update(known)
        method_files._registered.clear()


@pytest.fixture(autouse=True)
def settings_of_torch():
    with kept_settings():
        yield


@pytest.fixture(scope="session")
def whole_run(text, tmp_path_factory):
    """The folder of a tiny run that nothing disturbed."""
    import train

    run = tmp_path_factory.mktemp("whole") / "run"
    with kept_settings():
        assert train.main(tiny.command(text, run)) == 0
    return run
