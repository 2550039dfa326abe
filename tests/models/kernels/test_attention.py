"""Attention within the rows of a list of positions: padded again or row by row, with the same result."""

import pytest
import torch

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
    assert row_arguments(indices, (4, 16), heads=4)["lengths"].tolist() == [15, 2, 8, 2]
    assert row_arguments(indices, (4, 16), heads=2) == {"indices": indices, "shape": (4, 16)}
    assert row_arguments(None, (4, 16), heads=4) == {}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_row_attention_is_a_sound_operator(dtype):
    """Its gradients, and the shapes, strides and dtypes that a compiler is told."""
    query, key, value = (torch.randn(8, 2, 4, dtype=dtype, requires_grad=True) for _ in range(3))
    lengths = torch.tensor([5, 2, 1])
    torch.library.opcheck(row_attention, (query, key, value, lengths))
    if dtype == torch.float64:
        assert torch.autograd.gradcheck(lambda *rows: row_attention(*rows, lengths)[0], (query, key, value))
