import contextlib

import pytest
import torch

from optimizers import kernels
from optimizers.kernels import cuda


@contextlib.contextmanager
def cuda_functions():
    """A CPU computes what it would on CUDA. No tensor has to be there for it: the functions are torch's own calls."""
    before = kernels.replacements
    kernels.replacements = lambda device_type: cuda.REPLACEMENTS
    try:
        yield
    finally:
        kernels.replacements = before


FORMS = {"kernels": contextlib.nullcontext, "plain": kernels.disabled, "cuda": cuda_functions}


@pytest.fixture(params=[pytest.param(form, marks=pytest.mark.slow if form == "cuda" else ()) for form in FORMS])
def form(request):
    """Functions that kernels may replace, in each form; without a compiler most kernels are the plain form."""
    with FORMS[request.param]():
        yield request.param


@pytest.fixture
def set_threads():
    """torch.set_num_threads, for the test alone."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
