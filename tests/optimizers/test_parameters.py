"""Parameters of kinds that users bring: strided, complex, sparse, without elements."""

import pytest
import torch

from optimizers import LAMB, LARS, RACS, Adam, registry

from .harness import options_of

every_optimizer = pytest.mark.parametrize("name", registry.names())


def column_slice():
    return torch.nn.Parameter((torch.arange(128.0).view(8, 16) / 128)[:, :6])


def whole():
    return torch.nn.Parameter(torch.arange(48.0).view(8, 6) / 48)


@pytest.mark.parametrize("parameter", [whole, column_slice])
@pytest.mark.parametrize(
    "gradient",
    [
        lambda: torch.randn(8, 6),
        lambda: torch.randn(6, 8).t(),
        lambda: torch.randn(1, 1).expand(8, 6),
        lambda: torch.randn(8, 12)[:, ::2],
    ],
)
@pytest.mark.parametrize("as_group", [False, True])
def test_adam_steps_any_strides_as_torch_does(parameter, gradient, as_group):
    """The fused kernel reads memory as if weight, gradient and moments had the same dense strides."""
    ours, theirs = parameter(), parameter()
    groups = [{"params": [ours], "algorithm": "adam", "lr": 0.01}]
    optimizer = RACS(groups) if as_group else Adam([ours], lr=0.01)
    expected = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.0)
    for step in range(3):
        torch.manual_seed(step)
        ours.grad = gradient()
        theirs.grad = ours.grad.clone()
        optimizer.step(), expected.step()
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)


@every_optimizer
@pytest.mark.parametrize("algorithm", ["method", "adam"])
def test_gradients_in_float32_step_bfloat16_weights(name, algorithm):
    """Programs that add up many micro-batches keep them so."""
    cls, first, second = registry.get(name)[0], *(torch.full((16, 24), 0.01) for _ in range(2))
    weights = [torch.nn.Parameter(weight.bfloat16()) for weight in (first, second)]
    steps = [cls([{"params": [w], "algorithm": algorithm, "lr": 0.01}], **options_of(name)) for w in weights]
    weights[0].grad_dtype = None
    for step in range(1, 4):
        weights[1].grad = torch.randn(16, 24, generator=torch.Generator().manual_seed(step)).bfloat16()
        weights[0].grad = weights[1].grad.float()
        for optimizer in steps:
            optimizer.step()
    assert torch.allclose(weights[0], weights[1], rtol=2.0**-6, atol=2.0**-12)
    assert not torch.equal(weights[0], first.bfloat16())


def test_adam_leaves_the_memory_around_a_slice_alone():
    memory = torch.zeros(8, 16)
    weight = torch.nn.Parameter(memory[:, :6])
    optimizer = Adam([weight], lr=0.1)
    (weight * torch.ones(8, 6)).sum().backward()
    optimizer.step()
    assert weight.all() and not memory[:, 6:].any()


@every_optimizer
def test_gradients_of_any_strides_give_the_same_step(name):
    cls, results = registry.get(name)[0], []
    for strided in (False, True):
        weight = whole()
        optimizer = cls([weight], lr=0.01, **options_of(name))
        for step in range(4):
            gradient = torch.randn(6, 8, generator=torch.Generator().manual_seed(step)).t()
            weight.grad = gradient if strided else gradient.contiguous()
            optimizer.step()
        results.append(weight.detach())
    assert torch.allclose(*results, rtol=0, atol=1e-5)


@every_optimizer
@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (lambda: torch.zeros(8, 16, dtype=torch.complex64), "real floating-point parameters, got one of dtype"),
        (lambda: torch.zeros(8, 16).to_sparse(), "dense parameters, got one of layout"),
        (lambda: torch.zeros(8, 16).to_sparse_csr(), "dense parameters, got one of layout"),
    ],
)
@pytest.mark.parametrize("algorithm", ["method", "adam"])
def test_kinds_that_cannot_be_stepped_are_refused(name, kind, sentence, algorithm):
    parameter = torch.nn.Parameter(kind())
    with pytest.raises(ValueError, match=sentence):
        registry.get(name)[0]([{"params": [parameter], "algorithm": algorithm}], lr=0.01, **options_of(name))


@every_optimizer
def test_parameters_without_elements_are_taken(name):
    empty, full = torch.nn.Parameter(torch.zeros(0, 16)), torch.nn.Parameter(torch.randn(8, 16))
    before = full.detach().clone()
    optimizer = registry.get(name)[0]([empty, full], lr=0.01, **options_of(name))
    for _ in range(2):  # SOAP's first step moves nothing
        empty.grad, full.grad = torch.zeros(0, 16), torch.randn(8, 16)
        optimizer.step()
    assert not torch.equal(full, before)
    optimizer.load_state_dict(optimizer.state_dict())
    empty.grad = torch.zeros(0, 16)
    optimizer.step_parameter(empty)
    assert empty.grad is None


def test_an_empty_parameter_is_rounded_too():
    empty = torch.nn.Parameter(torch.zeros(0, dtype=torch.bfloat16))
    optimizer = Adam([empty])
    optimizer.round_stochastically(0)
    full = torch.nn.Parameter(torch.ones(8, dtype=torch.bfloat16))
    optimizer.add_param_group({"params": [full]})
    for parameter in (empty, full):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert "writes" not in optimizer.state[empty] and optimizer.state[full]["writes"] == 1


@pytest.mark.parametrize("cls", [LARS, LAMB])
@pytest.mark.parametrize("first", [1.0, 1e-24])
def test_norms_do_not_underflow(cls, first):
    """Squares of a momentum that decayed below 1e-23 are 0 in float32; the direction still has unit norm."""
    source = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(0.1 * torch.randn(8, 16, generator=source))
    optimizer = cls([weight], lr=0.001, **({"eps": 1e-30} if cls is LAMB else {}))
    for step in range(700):
        before = weight.detach().clone()
        weight.grad = first * torch.randn(8, 16, generator=source) if step < 5 else torch.zeros(8, 16)
        optimizer.step()
        moved = ((weight - before).norm() / before.norm()).item()
        assert moved < 0.00101 and (step > 4 or moved > 0.00099)
