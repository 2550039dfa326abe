"""The start of a process."""

import signal

import pytest
from accelerate.state import AcceleratorState

from configs.schema import SettingsError
from training.processes.start import start_world


@pytest.fixture
def fresh_accelerate():
    """accelerate keeps its state for the life of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    ("precision", "dtype", "refusal"),
    [("bf16", "bfloat16", "mixed_precision=bf16"), ("fp16", "float32", "mixed_precision is fp16")],
)
def test_precisions_that_do_not_go_together(monkeypatch, fresh_accelerate, precision, dtype, refusal):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
    try:
        with pytest.raises(SettingsError, match=refusal):
            start_world(seed=0, threads=None, deterministic=False, dtype=dtype)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
