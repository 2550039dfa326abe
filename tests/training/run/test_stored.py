"""Stored tensors: values as saved, and no more of the file than is asked for."""

import pytest
import torch
from safetensors.torch import save_file

from training.run.stored import open_safetensors, open_torch


@pytest.fixture
def matrix():
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_weights_and_rows_of_them(tmp_path, matrix, dtype):
    saved = {"first": torch.ones(3, dtype=dtype), "matrix": matrix.to(dtype)}
    save_file(saved, tmp_path / "file", metadata={"format": "pt"})
    stored = open_safetensors(tmp_path / "file")
    assert {name: weight.shape for name, weight in stored.content.items()} == {k: v.shape for k, v in saved.items()}
    assert stored.content["matrix"].device.type == "meta"
    assert torch.equal(stored.read(stored.content["matrix"]), saved["matrix"])
    assert torch.equal(stored.read(stored.content["matrix"][2:5]), saved["matrix"][2:5])


def test_parts_and_memory_order(tmp_path, matrix):
    """A product of other memory order may differ by rounding, so a resumed state keeps its own."""
    saved = {
        "turned": matrix.T,
        "bytes": torch.arange(9, dtype=torch.uint8),
        "step": torch.tensor(3.0),
        "none": matrix[:0],
    }
    torch.save(saved, tmp_path / "file")
    stored = open_torch(tmp_path / "file")
    for name, value in saved.items():
        got = stored.read(stored.content[name])
        assert torch.equal(got, value) and got.stride() == value.stride()
    rows = stored.read(stored.content["turned"][1:3])
    assert torch.equal(rows, matrix.T[1:3])
    assert rows.stride() == matrix.T[1:3].clone().stride()
    assert rows.untyped_storage().nbytes() == rows.nbytes
    part = stored.read(stored.content["bytes"][4:6])
    assert part.tolist() == [4, 5] and part.untyped_storage().nbytes() == 2


def test_a_file_that_ends_too_early_is_named(tmp_path, matrix):
    path = tmp_path / "file"
    save_file({"matrix": matrix}, path)
    stored = open_safetensors(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(OSError, match="file ends in the middle of a tensor"):
        stored.read(stored.content["matrix"])
