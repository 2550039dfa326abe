"""What both layouts share."""

import pytest
import torch

from training.processes.layout import norm_of_all


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_norm_of_all_gradients_is_exact_whatever_their_dtype(dtype):
    """In bfloat16 it would be off by up to four thousandths, and clipping with it."""
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(shape, generator=generator).to(dtype) for shape in ((30, 50), (7,), (90, 11))]
    exact = torch.cat([gradient.double().flatten() for gradient in gradients]).norm().item()
    assert norm_of_all(gradients).item() == pytest.approx(exact, rel=1e-6)
