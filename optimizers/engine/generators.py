"""Private random sources: functions of (seed, step, parameter), so that there is no random state to save."""

import hashlib

import torch


def generator(
    seed: int, step: int, index: int, *, device: torch.device | str = "cpu", purpose: str = ""
) -> torch.Generator:
    """The random source of parameter `index` at step `step`, for one purpose, on `device`.

    Every process and every resumed run draws the same numbers. Bases are drawn on the CPU: for the same seed a CUDA
    generator gives other values.
    """
    digest = hashlib.blake2b(f"{purpose}{seed}/{step}/{index}".encode(), digest_size=8).digest()
    # A CPU generator keeps only the low 32 bits of its seed; a hash spreads the three numbers over them.
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


def rounding_source(seed: int, count: int, index: int, device: torch.device) -> torch.Generator:
    """The random source, on `device`, of the count-th (from 1) write of parameter `index`."""
    return generator(seed, count, index, device=device, purpose="rounding")


def moment_source(
    seed: int, count: int, index: int, key: str, *, device: torch.device, refresh: bool = False
) -> torch.Generator:
    """The random source, on `device`, of the count-th (from 1) rounding of the moment `key` of matrix `index`; that of
    a refresh is another than that of the same step's update."""
    return generator(seed, count, index, device=device, purpose=f"{'refreshed ' if refresh else ''}{key} ")
