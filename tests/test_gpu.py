"""The tests of tests/gpu on a CPU, so that one that no device could pass is seen without a device."""

import inspect

import pytest
import torch

from optimizers import registry
from tests.gpu import test_cuda

TESTS = {name: test for name, test in vars(test_cuda).items() if name.startswith("test_")}
CHOICES = {"name": "alice", "optimizer": "racs", "dtype": torch.bfloat16, "deterministic": None}


def values(test, argument: str) -> list:
    """The values of a test's argument in its parametrizations."""
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.args[0] == argument]
    return [value for mark in marks for value in mark.args[1]]


@pytest.mark.parametrize("test", TESTS.values(), ids=TESTS)
def test_a_test_for_a_device_passes_on_a_cpu(test, request, monkeypatch):
    monkeypatch.setattr(test_cuda, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
    before = torch.are_deterministic_algorithms_enabled()
    try:
        test(**{
            argument: CHOICES[argument] if argument in CHOICES else request.getfixturevalue(argument)
            for argument in inspect.signature(test).parameters
        })  # fmt: skip
    finally:
        torch.use_deterministic_algorithms(before)


def test_the_optimizers_of_the_device_tests_are_registered():
    """The contract's "template" is registered by a fixture of its own file alone."""
    named = {value for test in TESTS.values() for argument in ("name", "optimizer") for value in values(test, argument)}
    assert {"racs", "alice"} < named <= set(registry.names())
