"""Gradients and a random source that the tests of this folder share."""

import pytest
import torch
from torch import Tensor

from .samples import sampled_gradients


@pytest.fixture(params=[0, 1, 2])
def gradients(request) -> Tensor:
    return sampled_gradients(request.param)


@pytest.fixture
def source() -> torch.Generator:
    return torch.Generator().manual_seed(7)
