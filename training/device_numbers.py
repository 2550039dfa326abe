"""Numbers of a device that are read after more work was queued behind them."""

import torch
from torch import Tensor


class DeviceNumbers:
    """The elements of `tensor`, a few numbers of one dimension.

    On CUDA they are copied to the host in the stream, so that reading waits for their copy alone and not for what was
    queued after it.
    """

    def __init__(self, tensor: Tensor):
        self._copied: torch.cuda.Event | None = None
        self._host = tensor
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype).pin_memory()
            self._host.copy_(tensor, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def read(self) -> list[float]:
        """The numbers, once the device has computed them."""
        if self._copied is not None:
            self._copied.synchronize()
        numbers: list[float] = self._host.tolist()
        return numbers
