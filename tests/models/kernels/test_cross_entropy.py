"""The chunked loss against plain cross entropy in float64: value and gradients."""

import pytest
import torch
import torch.nn.functional as F

from models.kernels import cross_entropy
from models.kernels.cross_entropy import ChunkedCrossEntropy, CompiledChunk, chunk_gradients, summed_cross_entropy

VOCABULARY, WIDTH = 101, 48
# Rounding of the results, and in bfloat16 of the logits' gradient before the products.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 4e-3}


def inputs(rows=300, dtype=torch.float32, vocabulary=VOCABULARY, width=WIDTH):
    """Hidden states, weight and targets, of which every seventh is none."""
    draw = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(rows, width, generator=draw), 0.3 * torch.randn(vocabulary, width, generator=draw)
    targets = torch.randint(vocabulary, (rows,), generator=draw)
    targets[::7] = -100
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), targets


def plain(hidden, weight, targets, scale=1.0):
    """The loss and its gradients for hidden states and weight, in float64."""
    hidden, weight = (tensor.detach().double().requires_grad_() for tensor in (hidden, weight))
    loss = F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    (loss * scale).backward()
    return loss.detach(), hidden.grad, weight.grad


def error(found, exact):
    return ((found.double() - exact).norm() / exact.norm()).item()


@pytest.fixture(params=[torch.float64, torch.float32, torch.bfloat16])
def dtype(request):
    return request.param


def test_loss_and_gradients_equal_the_plain_ones(dtype):
    hidden, weight, targets = inputs(dtype=dtype)
    loss = ChunkedCrossEntropy.apply(hidden, weight, targets, dtype, 64, chunk_gradients)
    (loss * 0.01).backward()
    exact = plain(hidden, weight, targets, scale=0.01)
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert error(loss.detach(), exact[0]) < min(TOLERANCE[dtype], 1e-6)  # summed in float32 at least
    for found, expected in zip((hidden.grad, weight.grad), exact[1:], strict=True):
        assert found.dtype == dtype and error(found, expected) < TOLERANCE[dtype]
    assert not hidden.grad[::7].any()


def test_chunks_change_nothing_but_rounding():
    found = []
    for chunk in (300, 7, 299):
        hidden, weight, targets = inputs(dtype=torch.float64)
        ChunkedCrossEntropy.apply(hidden, weight, targets, torch.float64, chunk, chunk_gradients).backward()
        found.append((hidden.grad, weight.grad))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-12, atol=1e-12)


def test_products_take_the_dtype_of_autocast_and_the_gradients_that_of_the_weights():
    hidden, weight, targets = inputs()
    seen = set()

    def watched(rows, *others):
        seen.add(rows.dtype)
        return chunk_gradients(rows, *others)

    with torch.autocast("cpu", torch.bfloat16):
        loss = summed_cross_entropy(hidden, weight, targets, watched)
        with torch.no_grad():
            evaluated = summed_cross_entropy(hidden, weight, targets, watched)
    loss.backward()
    assert seen == {torch.bfloat16} and loss.dtype == evaluated.dtype == torch.float32
    torch.testing.assert_close(evaluated, loss.detach())
    exact = plain(hidden, weight, targets)
    assert error(loss.detach(), exact[0]) < 1e-4
    for found, expected in zip((hidden.grad, weight.grad), exact[1:], strict=True):
        assert found.dtype == torch.float32 and error(found, expected) < 2 * TOLERANCE[torch.bfloat16]


def test_confident_predictions_keep_their_small_gradient():
    """P - 1 at the target is far below the rounding of P in bfloat16."""
    hidden, weight = torch.eye(4, dtype=torch.bfloat16) * 4, torch.eye(4, dtype=torch.bfloat16) * 3
    hidden.requires_grad_(), weight.requires_grad_()
    targets = torch.arange(4)
    ChunkedCrossEntropy.apply(hidden, weight, targets, torch.bfloat16, 4, chunk_gradients).backward()
    _, _, exact = plain(hidden, weight, targets)
    assert exact.diag().abs().max() < 4 * 2**-9
    assert error(weight.grad, exact) < 2e-2  # of 12 in float32, the logarithm of P


def test_low_precision_holds_a_chunk_of_logits(monkeypatch):
    monkeypatch.setitem(cross_entropy.CHUNK, "cpu", 32)
    hidden, weight, targets = inputs(rows=320, dtype=torch.bfloat16, vocabulary=5000, width=8)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        summed_cross_entropy(hidden, weight, targets, chunk_gradients).backward()
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert 0 < largest <= 32 * 5000 * 4 * 2


@pytest.mark.slow
def test_weight_gradient_of_many_positions_is_rounded_once():
    """49,152 positions whose targets follow Zipf's law, in chunks as on CUDA: 0.3 % at most, also for the commonest
    tokens, to whose rows thousands of positions add. Summed in bfloat16 it would be 3 %."""
    positions, vocabulary, width = 49_152, 1024, 32
    draw = torch.Generator().manual_seed(0)
    targets = torch.multinomial(1 / torch.arange(1.0, vocabulary + 1), positions, True, generator=draw)
    hidden = torch.randn(positions, width, generator=draw).bfloat16()
    weight = (0.02 * torch.randn(vocabulary, width, generator=draw)).bfloat16().requires_grad_()
    ChunkedCrossEntropy.apply(hidden, weight, targets, torch.bfloat16, 8192, chunk_gradients).div(positions).backward()
    _, _, exact = plain(hidden, weight, targets, scale=1 / positions)
    assert error(weight.grad, exact) < 3e-3
    assert error(weight.grad[:20], exact[:20]) < 3e-3


@pytest.mark.slow
@torch._dynamo.config.patch(error_on_recompile=True)
def test_the_compiled_chunk_is_one_graph_for_every_number_of_rows(monkeypatch):
    """Two backends, because `aot_eager` keeps the order of sums: its results are equal to the bit."""
    monkeypatch.setitem(cross_entropy.CHUNK, "cpu", 64)
    for backend, tolerance in (("aot_eager", 0.0), ("inductor", 1e-2)):
        torch._dynamo.reset()
        compiled = CompiledChunk(dynamic=False, fullgraph=True, backend=backend)
        for rows in (300, 64, 65, 2, 129):
            eager, own = inputs(rows, torch.bfloat16), inputs(rows, torch.bfloat16)
            losses = [summed_cross_entropy(*eager, chunk_gradients), summed_cross_entropy(*own, compiled)]
            for loss in losses:
                loss.backward()
            torch.testing.assert_close(losses[1], losses[0], rtol=1e-5 if tolerance else 0, atol=0)
            for found, expected in zip(own[:2], eager[:2], strict=True):
                torch.testing.assert_close(found.grad, expected.grad, rtol=tolerance, atol=tolerance)
