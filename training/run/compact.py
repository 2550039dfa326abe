"""States as they go into a checkpoint: tensors and plain values, no more bytes than they need."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def compact(value: Any) -> Any:
    """`value` with each tensor detached, and copied if its storage holds bytes that no tensor of `value` shows.

    `torch.save` writes whole storages: with a view of a stack of matrices it would write the stack. Views that
    together cover their storage are not copied, because the storage is written once. TypeError for anything but
    tensors, numbers, strings, None, and dicts, lists and tuples of them: loading must not need to unpickle code.
    """
    seen: dict[int, dict] = {}  # storage -> {view: bytes}
    for tensor in tensors(value):
        view = (tensor.storage_offset(), tensor.shape, tensor.stride())
        seen.setdefault(tensor.untyped_storage().data_ptr(), {})[view] = tensor.nbytes

    def walk(value: Any, where: str) -> Any:
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            wasteful = storage.nbytes() > sum(seen[storage.data_ptr()].values())
            return value.detach().clone() if wasteful else value.detach()
        if isinstance(value, dict):
            return {key: walk(item, f"{where}[{key!r}]") for key, item in value.items()}
        if isinstance(value, list | tuple):
            items = [walk(item, f"{where}[{i}]") for i, item in enumerate(value)]
            return tuple(items) if isinstance(value, tuple) else items
        if value is None or type(value) in (bool, int, float, str):
            return value
        raise TypeError(f"checkpoints hold tensors and plain values, but state{where} is a {type(value).__name__}")

    return walk(value, "")


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)
