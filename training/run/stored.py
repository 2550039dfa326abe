"""Files of tensors that are opened without reading the tensors: names, shapes and dtypes first, values one at a time.

Values come by plain reads, not by a mapping of the file: pages of a mapping count as memory of the process, and a disk
that fails under a mapping kills it without a word.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# The dtypes of parameters, as safetensors spells them.
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Stored:
    """What the file at `path` holds, its tensors on the meta device."""

    path: Path
    content: Any

    def read(self, tensor: Tensor) -> Tensor:
        """The values of `tensor`, one of `content` or a view of one, on the CPU. Only they are read. Raises OSError."""
        steps = ((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        span = 1 + sum(steps) if tensor.numel() > 0 else 0  # elements from its first to its last in the file
        values = torch.empty(span, dtype=tensor.dtype)
        place = tensor.untyped_storage()._checkpoint_offset
        assert place is not None, "a tensor of another file"
        with self.path.open("rb") as file:
            file.seek(place + int(tensor.storage_offset()) * tensor.itemsize)
            if file.readinto(values.view(torch.uint8).numpy().data) != values.nbytes:
                raise OSError(f"{self.path} ends in the middle of a tensor")
        values = values.as_strided(tensor.shape, tensor.stride())
        return values if span == tensor.numel() else values.clone()


def open_torch(path: Path) -> Stored:
    """A file of `torch.save`. torch notes where each storage on the meta device lies in the file.

    Raises OSError, and pickle.UnpicklingError for anything but tensors and plain values.
    """
    return Stored(path, torch.load(path, map_location="meta", weights_only=True))


def open_safetensors(path: Path) -> Stored:
    """A file of safetensors: the length of the header (8 bytes, little endian), the header in JSON, the tensors.

    Raises OSError.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return Stored(path, {name: _on_meta(entry, 8 + length) for name, entry in header.items()})


def _on_meta(entry: dict[str, Any], data: int) -> Tensor:
    """The tensor of a header's `entry`; `data`: where tensors begin in the file."""
    begin, end = entry["data_offsets"]
    storage = torch.UntypedStorage(end - begin, device="meta")
    storage._checkpoint_offset = data + begin
    flat = torch.empty(0, dtype=DTYPES[entry["dtype"]], device="meta").set_(storage)
    return flat.view(entry["shape"])
