"""Parameters of one group on several devices, as a model that is spread over them has."""

import pytest
import torch

from optimizers.engine import matrix
from optimizers.engine.bounded_lists import bounded_lists


@pytest.fixture
def spread():
    """Parameters on two devices in turn, with gradients."""
    made = [torch.nn.Parameter(torch.ones(4, 6, device=device)) for device in ("cpu", "meta", "cpu", "meta")]
    for parameter in made:
        parameter.grad = torch.ones_like(parameter)
    return made


def test_norms_are_taken_device_by_device(spread, monkeypatch):
    """torch.stack takes tensors of one device alone."""
    asked = []

    def norms(gradients, parameters):
        asked.append([gradient.device.type for gradient in gradients])
        return torch.arange(len(gradients), dtype=torch.float64)

    monkeypatch.setattr(matrix, "whole_norms", norms)
    found = list(matrix.gradient_norms(spread))
    assert asked == [["cpu", "cpu"], ["meta", "meta"]]
    places = {parameter: place for place, parameter in enumerate(spread)}
    assert [(places[parameter], norm) for parameter, norm in found] == [(0, 0), (2, 1), (1, 0), (3, 1)]


def test_lists_that_are_stepped_together_are_on_one_device(spread):
    cpu, meta, *_ = spread
    lists = bounded_lists([cpu, cpu, meta, meta, cpu], "cuda")
    assert [[parameter.device.type for parameter in each] for each in lists] == [["cpu"] * 2, ["meta"] * 2, ["cpu"]]
