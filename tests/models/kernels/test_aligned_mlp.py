"""An MLP of odd width, padded: the outputs and gradients of transformers' own."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

from models.kernels.aligned_mlp import AlignedMLP
from tests.models.test_llama import batch, build, gradients

ODD = LlamaConfig(hidden_size=16, intermediate_size=21, num_attention_heads=2)


@pytest.fixture
def padded(monkeypatch):
    """Pad on a CPU too."""
    monkeypatch.setattr(AlignedMLP, "padded_on", ("cpu",))


def both(dtype=torch.float64):
    """The same weights in our form and in transformers'."""
    torch.manual_seed(0)
    ours, theirs = AlignedMLP(ODD).to(dtype), LlamaMLP(ODD).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def run(mlp, x):
    """Output, and the gradients of a sum for x and the weights."""
    x = x.clone().requires_grad_()
    output = mlp(x)
    output.float().sin().sum().backward()
    return [output.detach(), x.grad, *(weight.grad for weight in mlp.parameters())]


def widths(mlp, x):
    """Last sizes of all weights of linear products."""
    seen, linear = set(), torch.nn.functional.linear

    def watched(x, weight):
        seen.add(tuple(weight.shape))
        return linear(x, weight)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "linear", watched)
        mlp(x)
    return seen


def test_products_are_aligned_and_weights_keep_their_shape(padded):
    ours, _ = both()
    assert widths(ours, torch.ones(2, 3, 16, dtype=torch.float64)) == {(24, 16), (16, 24)}
    assert ours.gate_proj.weight.shape == (21, 16) and ours.down_proj.weight.shape == (16, 21)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.bfloat16, 2e-2)])
def test_outputs_and_gradients_are_those_without_padding(padded, dtype, tolerance):
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    for ours, theirs in zip(*(run(mlp, x) for mlp in both(dtype)), strict=True):
        assert ours.dtype == dtype and ours.is_contiguous()
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_autocast_is_honoured(padded):
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        results = [run(mlp, x) for mlp in both(torch.float32)]
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)


def test_no_padded_weight_is_kept_for_backward(padded):
    kept = []
    ours, _ = both()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda t: t):
        ours(torch.ones(2, 3, 16, dtype=torch.float64, requires_grad=True))
    assert kept and not {(24, 16), (16, 24)} & {tuple(shape) for shape in kept}


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_model_of_odd_width_trains_as_before(padded, monkeypatch, compiled):
    torch._dynamo.reset()
    model, plain, inputs = (*(build(torch.float64, intermediate_size=45) for _ in range(2)), batch())
    if compiled:
        model.compile(dynamic=False, backend="aot_eager", fullgraph=True)
    losses = [model(*inputs).loss_sum]
    losses[0].backward()
    with torch.no_grad():
        evaluated = model(*inputs).loss_sum
    monkeypatch.setattr(AlignedMLP, "padded_on", ())
    losses.append(plain(*inputs).loss_sum)
    losses[1].backward()
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(evaluated, losses[1].detach())
    torch.testing.assert_close(gradients(model), gradients(plain), rtol=1e-10, atol=1e-12)
    assert {name: p.shape for name, p in model.named_parameters()} == {n: p.shape for n, p in plain.named_parameters()}
