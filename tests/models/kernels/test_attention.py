"""Attention within the rows of a list of positions: padded again or row by row, with the same result."""

import inspect
import itertools

import pytest
import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from models.kernels import attention as kernels
from models.kernels.attention import attention, row_arguments
from models.kernels.row_attention import row_attention
from models.unpadding import unpadded_indices
from tests.models.test_llama import build
from tests.models.test_unpadding import padded_rows


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.bfloat16, 1e-2)])
def test_rows_one_by_one_and_padded_rows_give_the_same_output(dtype, tolerance):
    _, labels = padded_rows([16, 3, 9, 0])
    indices, generator = unpadded_indices(labels), torch.Generator().manual_seed(0)
    tensors = [torch.randn(1, len(indices), 2, 8, generator=generator).to(dtype).transpose(1, 2) for _ in range(3)]
    module, found = build().model.layers[0].self_attn, []
    for arguments in ({"lengths": torch.tensor([15, 2, 8, 2])}, {"indices": indices, "shape": (4, 16)}):
        inputs = [tensor.clone().requires_grad_() for tensor in tensors]
        output, _ = attention(module, *inputs, None, **arguments)
        output.square().sum().backward()
        found.append([output.detach(), *(tensor.grad for tensor in inputs)])
    assert found[0][0].shape == (1, len(indices), 2, 8)
    torch.testing.assert_close(found[0], found[1], rtol=tolerance, atol=tolerance)


def test_a_cpu_with_more_threads_than_heads_pads_the_rows(monkeypatch):
    _, labels = padded_rows([16, 3, 9, 0])
    indices = unpadded_indices(labels)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    others = {"width": 16, "dtype": torch.bfloat16}
    assert row_arguments(indices, (4, 16), heads=4, **others)["lengths"].tolist() == [15, 2, 8, 2]
    assert row_arguments(indices, (4, 16), heads=2, **others) == {"indices": indices, "shape": (4, 16)}
    assert row_arguments(None, (4, 16), heads=4, **others) == {}


def rows_in_turn(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False
):
    """What `varlen_attn` computes on a GPU."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32 and window_size == (-1, 0)  # causal
    assert max_q == max_k >= cu_seq_q.diff().max() and query.dtype == key.dtype == value.dtype
    outputs = []
    for start, end in itertools.pairwise(cu_seq_q.tolist()):
        row = (tensor[start:end].transpose(0, 1) for tensor in (query, key, value))
        output = scaled_dot_product_attention(*row, is_causal=True, scale=scale, enable_gqa=enable_gqa)
        outputs.append(output.transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize("shared", [None, 2], ids=["a head each", "shared keys"])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_device_with_a_kernel_for_lists_gets_no_padding(monkeypatch, shared, autocast):
    """Losses and gradients are those of rows one by one."""
    ids, labels = padded_rows([16, 3, 9, 0])
    indices, found = unpadded_indices(labels), []
    for listed in (False, True):
        if listed:
            monkeypatch.setattr(kernels, "takes_lists", lambda *_: True)
            monkeypatch.setattr(kernels, "varlen_attn", rows_in_turn)
        model = build(num_attention_heads=4, num_key_value_heads=shared)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(ids, labels, indices).loss_sum
        loss.backward()
        found.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    # Under autocast both round to bfloat16, in another order of sums.
    torch.testing.assert_close(*found, rtol=2e-2 if autocast else 1e-4, atol=2e-2 if autocast else 1e-4)


def test_the_stand_in_takes_what_the_kernel_takes():
    ours, theirs = (inspect.signature(function).parameters for function in (rows_in_turn, varlen_attn))
    assert [(name, ours[name].kind) for name in ours] == [(name, theirs[name].kind) for name in theirs if name in ours]


@pytest.mark.parametrize(
    ("capability", "width", "dtype", "autocast", "expected"),
    [
        ((8, 0), 64, torch.bfloat16, False, True),
        ((9, 0), 64, torch.float16, False, True),
        ((7, 5), 64, torch.float16, False, False),
        ((9, 0), 64, torch.float32, False, False),
        ((9, 0), 64, torch.float32, True, True),
        ((9, 0), 36, torch.bfloat16, False, False),
        ((9, 0), 512, torch.bfloat16, False, False),
    ],
)
def test_the_kernel_for_lists_is_used_where_it_runs(monkeypatch, capability, width, dtype, autocast, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: autocast)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda _: torch.bfloat16)
    assert kernels.takes_lists(torch.device("cuda"), width, dtype) is expected
    assert not kernels.takes_lists(torch.device("cpu"), width, dtype)


def test_gradients_of_kept_positions_go_back_to_their_places():
    whole, indices = torch.randn(6, 2, dtype=torch.float64, requires_grad=True), torch.tensor([0, 2, 3])
    assert torch.equal(kernels.Kept.apply(whole, indices), whole[indices])
    assert torch.autograd.gradcheck(lambda tensor: kernels.Kept.apply(tensor, indices), whole)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_row_attention_is_a_sound_operator(dtype):
    """Its gradients, and the shapes, strides and dtypes that a compiler is told."""
    query, key, value = (torch.randn(8, 2, 4, dtype=dtype, requires_grad=True) for _ in range(3))
    lengths = torch.tensor([5, 2, 1])
    torch.library.opcheck(row_attention, (query, key, value, lengths))
    if dtype == torch.float64:
        assert torch.autograd.gradcheck(lambda *rows: row_attention(*rows, lengths)[0], (query, key, value))
