import contextlib

import pytest
import torch

from optimizers import kernels


@pytest.fixture(params=["kernels", "plain"])
def form(request):
    """Functions that kernels may replace, in both forms; without a compiler most kernels are the plain form."""
    with kernels.disabled() if request.param == "plain" else contextlib.nullcontext():
        yield request.param


@pytest.fixture
def set_threads():
    """torch.set_num_threads, for the test alone."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
