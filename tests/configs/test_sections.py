"""The sections of the settings: declared by the rooms, composed by `configs`, quick to import."""

import dataclasses
import subprocess
import sys

import pytest

from configs.sections import Config

ROOMS = ("configs", "data", "models", "training")
LIBRARIES = {"accelerate", "datasets", "httpx", "huggingface_hub", "pyarrow", "tokenizers", "transformers", "wandb"}


def imported(module: str) -> set[str]:
    """The names of all modules that a new interpreter has after `import module`."""
    code = f"import sys, {module}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("module", ["data.data_settings", "models.model_settings", "training.train_settings"])
def test_a_rooms_settings_import_no_large_library_and_no_room(module):
    names = imported(module)
    assert not names & {"torch", "numpy", *LIBRARIES}
    ours = {name for name in names if name.partition(".")[0] in ROOMS}
    assert ours == {"configs", "configs.setting", module.partition(".")[0], module}


@pytest.mark.slow
def test_the_schema_imports_torch_alone():
    """torch comes with the optimizers, whose signatures are the options of their section."""
    names = imported("configs.schema")
    assert not names & LIBRARIES
    declared = {name for name in names if name.startswith(("data.", "models.", "training."))}
    assert declared == {"data.data_settings", "models.model_settings", "training.train_settings"}


def test_every_setting_has_a_meaning():
    for section in dataclasses.fields(Config):
        for f in dataclasses.fields(section.default_factory):
            assert f.metadata["meaning"]
