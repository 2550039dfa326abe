"""Counts what operators on CUDA tensors launch, move, compute and hold, and where the host would wait for them.

The rules are those of torch's eager CUDA code. Not counted: what a solver launches inside, caches (every operand comes
from memory), and time.
"""

from tests.phantom import device  # before torch

import math  # isort: skip
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# Operators that launch nothing, views apart.
FREE = {"detach", "alias", "view", "_unsafe_view", "_reshape_alias", "lift_fresh", "set_", "empty", "empty_like",
        "empty_strided", "new_empty", "new_empty_strided"}  # fmt: skip
# Solvers that read on the host whether they succeeded, and operators whose result has a size that depends on data.
CHECKED = {"_linalg_eigh", "_linalg_svd"}
READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "unique2", "_unique2"}
COPIES = {"copy_", "_to_copy", "_foreach_copy_"}
# Products that are added to a matrix. Out of place, that matrix is copied first: torch's CUDA code multiplies into it.
ADDED = {"addmm", "baddbmm"}
# ATen/native/cuda/MultiTensorApply.cuh: tensors that one launch of a foreach operator takes, by the number of lists;
# blocks of it, and elements of a block. A build for CUDA 13 takes more; without CUDA those of 12 are counted.
CUDA_13 = int((torch.version.cuda or "12").split(".")[0]) >= 13
TENSORS = (770, 448, 336, 252, 210) if CUDA_13 else (110, 64, 48, 36, 30)
BLOCKS, BLOCK = 2240 if CUDA_13 else 320, 65536


class Kernel(NamedTuple):
    """One operator. `wait`: why the host waits for the device here, None where it does not."""

    name: str
    launches: int
    bytes: int
    flops: int
    wait: str | None
    dtype: torch.dtype  # of a product's operands, else of the largest tensor
    shape: tuple[int, ...]  # of the largest tensor


class Count(TorchDispatchMode):
    """`kernels`, in order; `peak`: the most bytes at once in tensors that were made and freed meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []
        self.peak = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    @property
    def launches(self) -> int:
        return sum(kernel.launches for kernel in self.kernels)

    @property
    def bytes(self) -> int:
        return sum(kernel.bytes for kernel in self.kernels)

    @property
    def flops(self) -> int:
        return sum(kernel.flops for kernel in self.kernels)

    @property
    def waits(self) -> list[str]:
        return [f"{kernel.name}: {kernel.wait}" for kernel in self.kernels if kernel.wait]

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        name = function._schema.name.split("::")[1]
        given = _tensors((args, kwargs))
        made = [tensor for tensor in _tensors(out) if not any(tensor is each for each in given)]
        if not any(tensor.device.type == "cuda" for tensor in given + made):
            return out
        self._note_memory(made, {tensor.untyped_storage()._cdata for tensor in given})
        if name in FREE or function._schema.name.startswith("prim::") or function.is_view:
            return out
        read, written = _traffic(function, args, kwargs)
        flops = _flops(function, name, args, kwargs, out)
        largest = max(given + made, key=Tensor.numel)
        moved = sum(map(_bytes, read + written + made))
        launches = _launches(name, args, len(made))
        if name in ADDED and kwargs.get("beta", 1) != 0:
            moved, launches = moved + 2 * sum(map(_bytes, made or written)), launches + 1
        operands = [tensor.dtype for tensor in given if tensor.is_floating_point()] if flops else [largest.dtype]
        wait = _wait(name, args, kwargs, given, made)
        dtype = min(operands, key=lambda each: each.itemsize)
        self.kernels.append(Kernel(name, launches, moved, flops, wait, dtype, tuple(largest.shape)))
        return out

    def _note_memory(self, made: list[Tensor], given: set[int]) -> None:
        for key, (reference, _) in list(self._live.items()):
            if reference.expired():
                del self._live[key]
        for tensor in made:
            storage = tensor.untyped_storage()
            if tensor.device.type == "cuda" and storage._cdata not in given:
                self._live.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _traffic(function: Any, args: tuple, kwargs: dict) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors among the arguments that a kernel reads, each once (X and X^T are one), and those that it writes."""
    read: dict[tuple, Tensor] = {}
    written: list[Tensor] = []
    name = function._schema.name.split("::")[1]
    for i, argument in enumerate(function._schema.arguments):
        tensors = _tensors(args[i] if i < len(args) else kwargs.get(argument.name))
        writes = argument.alias_info is not None and argument.alias_info.is_write
        written += tensors if writes else []
        if "_fused_adam" in name and argument.name == "grads":  # written under a gradient scaler alone
            written = written[: -len(tensors)]
        unread = argument.is_out or name.startswith("new_") or name.endswith("_like")
        unread = unread or (writes and name in {*COPIES, "fill_", "zero_"})
        for tensor in [] if unread else tensors:
            read[tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.numel()] = tensor
    return list(read.values()), written


def _bytes(tensor: Tensor) -> int:
    """Of its elements, an expanded one once."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return math.prod(size for size, stride in sizes if stride) * tensor.element_size()


def _flops(function: Any, name: str, args: tuple, kwargs: dict, out: Any) -> int:
    if name in ("addmm_", "baddbmm_"):
        return 2 * args[1].numel() * args[2].shape[-1]
    count = flop_registry.get(function._overloadpacket)
    args = args[:2] if name == "bmm" else args  # a third one is the dtype of the result
    return count(*args, **kwargs, out_val=out) if count else 0


def _launches(name: str, args: tuple, made: int) -> int:
    """A foreach operator is one launch for each tensor unless its lists have one dtype and, pair by pair, one memory
    order; only copies may convert."""
    if "_foreach_" not in name and "_fused_adam" not in name:
        return 1
    lists = [
        list(given) for given in args if isinstance(given, list | tuple) and given and isinstance(given[0], Tensor)
    ]
    dtypes = [{tensor.dtype for tensor in tensors} for tensors in lists]
    one_dtype = len(set.union(*dtypes)) == 1 or (name == "_foreach_copy_" and all(len(each) == 1 for each in dtypes))
    one_order = all(len({_order(tensor) for tensor in pair}) == 1 for pair in zip(*lists, strict=False))
    if "_foreach_" in name and not (one_dtype and one_order):
        return len(lists[0])
    depth = min(len(lists) + (made > 0), len(TENSORS))
    blocks = sum(-(-tensor.numel() // BLOCK) for tensor in lists[0])
    return max(-(-len(lists[0]) // TENSORS[depth - 1]), -(-blocks // BLOCKS))


def _pinned(tensor: Tensor) -> bool:
    return tensor.untyped_storage()._cdata in device.pinned


def _order(tensor: Tensor) -> tuple:
    return tuple(stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1), tensor.shape


def _wait(name: str, args: tuple, kwargs: dict, given: list[Tensor], made: list[Tensor]) -> str | None:
    on_host = [tensor for tensor in given if tensor.device.type == "cpu" and tensor.ndim and not _pinned(tensor)]
    later = kwargs.get("non_blocking") or (len(args) > 2 and args[2] is True)
    if name in READS:
        return "reads the device"
    if name in CHECKED:
        return "checks for errors"
    if name in ("index", "index_put_") and any(i is not None and i.dtype == torch.bool for i in args[1]):
        return "boolean index"
    if name in COPIES:
        target = made[0] if made else given[0]
        if target.device.type == "cpu":
            return None if later and _pinned(target) else "copies to the host"
        if on_host:
            return "copies pageable memory" if later else "copies from the host"
        return None if later or all(tensor.is_cuda for tensor in given) else "copies from the host"
    return "index on the host" if on_host else None
