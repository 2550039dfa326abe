"""The phantom device. Import this before torch, in a process of its own: it changes torch's idea of the machine.

    with device.phantom(), Count() as count:
        optimizer.step()

Tensors of device "cuda" made inside have shapes, dtypes and strides but no elements. Reading one on the host raises
`DataDependentOutputException`.
"""

import contextlib
from collections.abc import Iterator

import tests.phantom.guard  # noqa: F401  before torch loads

# isort: split

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from optimizers.engine import matrix

aten = torch.ops.aten
HALVES = (torch.bfloat16, torch.float16)

pinned: set[int] = set()  # storages that a GPU reads and writes while the host goes on
synchronized: list[str] = []  # waits for events


class Event:
    """In place of `torch.cuda.Event`; it never passes unless it is waited for."""

    def __init__(self, **_: bool):
        pass

    def record(self) -> None:
        pass

    def query(self) -> bool:
        return False

    def synchronize(self) -> None:
        synchronized.append("waits for an event")


def pin_memory(tensor: Tensor) -> Tensor:
    """In place of `Tensor.pin_memory`."""
    if tensor.untyped_storage()._cdata in pinned:
        return tensor
    copy = tensor.clone()
    pinned.add(copy.untyped_storage()._cdata)
    _kept.append(copy)  # or another storage would get its address
    return copy


_kept: list[Tensor] = []


@contextlib.contextmanager
def phantom() -> Iterator[None]:
    """In here tensors are fake, autocast takes the device for one with bfloat16, and attention is a GPU's."""
    common = torch.cuda.amp.common
    functional, options = torch.nn.functional, torch.nn.LinearCrossEntropyOptions
    replaced = [
        (functional, "scaled_dot_product_attention", attention),
        # torch's choice for low precision where the device is CUDA
        (options, "_resolve_auto_acc_dtype", staticmethod(lambda dtype, _: torch.float32 if dtype in HALVES else None)),
        (common, "amp_definitely_not_available", lambda: False),
        (torch.cuda, "is_bf16_supported", lambda *_: True),
        (torch.cuda, "get_device_capability", lambda *_: (9, 0)),
        (torch.cuda, "Event", Event),
        (torch.cuda, "current_stream", lambda *_: "the only stream"),
        (torch.cuda, "default_stream", lambda *_: "the only stream"),
        (torch.Tensor, "pin_memory", pin_memory),
        (matrix, "gradient_norms", lambda found: [(each, 1.0) for each in found]),  # fake tensors have no numbers
    ]
    before = [(owner, name, vars(owner).get(name, getattr(owner, name))) for owner, name, _ in replaced]
    for owner, name, value in replaced:
        setattr(owner, name, value)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What `scaled_dot_product_attention` chooses on a GPU without a mask: the choice is made in torch's CUDA library,
    which is not here."""
    assert attn_mask is None, "flash attention takes no mask"
    if torch.is_autocast_enabled("cuda"):
        query, key, value = (tensor.to(torch.get_autocast_dtype("cuda")) for tensor in (query, key, value))
    if query.dtype in HALVES:
        return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
    assert query.shape[1] == key.shape[1], "the kernel for float32 takes no grouped heads: torch would store all scores"
    efficient = aten._scaled_dot_product_efficient_attention
    return efficient(query, key, value, None, True, dropout_p, is_causal, scale=scale)[0]


def to_phantom(model: nn.Module) -> nn.Module:
    """`model`, made on the meta device, with parameters and buffers on the phantom device."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="cuda")
                module._parameters[name] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
    return model
