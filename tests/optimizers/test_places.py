"""Steps are functions of numbers, not of where memory lies: a resumed run has other addresses."""

import copy

import pytest
import torch

from optimizers import registry

from .harness import gradient, options_of, parameters

SHAPES = [(40, 72), (72, 40), (40, 72), (33, 129), (200, 24)]
OFFSETS = (4, 8, 20, 64, 1028, 2052)  # bytes behind a page's beginning


def moved(tensor: torch.Tensor, place: int) -> torch.Tensor:
    """A copy of `tensor` at an odd place. torch's own storages begin at multiples of 64 bytes."""
    size = tensor.element_size()
    room = torch.empty(tensor.numel() * size + 8192, dtype=torch.uint8)
    start = -room.data_ptr() % 4096 + OFFSETS[place % len(OFFSETS)] // size * size
    return room[start : start + tensor.numel() * size].view(tensor.dtype).view(tensor.shape).copy_(tensor)


def trained(name: str, dtype: torch.dtype, *, elsewhere: bool) -> list[torch.Tensor]:
    """Weights after eight steps. `elsewhere`: weights and gradients at odd places, and the state is loaded halfway."""
    weights = parameters(SHAPES, dtype=dtype)
    if elsewhere:
        weights = [torch.nn.Parameter(moved(weight.detach(), i)) for i, weight in enumerate(weights)]
    optimizer, held = registry.get(name)[0](weights, lr=0.01, **options_of(name)), []
    for step in range(1, 9):
        for index, weight in enumerate(weights):
            weight.grad = gradient(tuple(weight.shape), step, index).to(dtype)
            if elsewhere:
                weight.grad = moved(weight.grad, index + step)
                held.append(torch.empty(1000 * step + index))  # what follows is allocated elsewhere
        optimizer.step()
        if elsewhere and step == 4:
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = registry.get(name)[0](weights, lr=0.01, **options_of(name))
            optimizer.load_state_dict(state)
    return [weight.detach() for weight in weights]


@pytest.mark.parametrize("name", registry.names())
def test_a_step_does_not_depend_on_where_memory_lies(name, set_threads):
    set_threads(2)
    here, there = (trained(name, torch.float32, elsewhere=elsewhere) for elsewhere in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


def test_products_of_the_models_sizes_do_not_depend_on_where_memory_lies(set_threads):
    """On some processors of Intel and AMD this fails without MKL_CBWR: docs/numerics.md."""
    set_threads(2)
    source = torch.Generator().manual_seed(0)
    for m, k, n in [(128, 2048, 352), (2048, 128, 352), (512, 1376, 128), (33, 129, 7), (129, 4096, 1)]:
        a, b = torch.randn(m, k, generator=source), torch.randn(k, n, generator=source)
        for left, right in ((a, b), (a.T.contiguous().T, b), (a, b.T.contiguous().T)):
            products = {(left @ right).numpy().tobytes()}
            for place in range(len(OFFSETS)):
                at = [moved(x if x.is_contiguous() else x.T, place + i) for i, x in enumerate((left, right))]
                first, second = (y if x.is_contiguous() else y.T for x, y in zip((left, right), at, strict=True))
                products.add((first @ second).numpy().tobytes())
            assert len(products) == 1, (m, k, n)
