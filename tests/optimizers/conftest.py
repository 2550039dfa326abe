import pytest
import torch

from optimizers import native


@pytest.fixture(params=["C++", "torch"])
def form(request, monkeypatch):
    """Both fast forms of what has two; without a compiler the first is the second."""
    if request.param == "torch":
        monkeypatch.setattr(native, "library", lambda source: None)
    return request.param


@pytest.fixture
def set_threads():
    """torch.set_num_threads, for the test alone."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
