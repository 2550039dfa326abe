"""Rates of GPUs, as their data sheets have them."""

from typing import NamedTuple

from configs.messages import nearest

GPUS_OF_A_MACHINE = 8


class Card(NamedTuple):
    """Memory in bytes. FLOP/s of products without sparsity. Links in bytes/s in one direction, half of a data sheet's
    sum of both: `network` joins machines of 8 GPUs, for each GPU.

    A data sheet's GB is 1e9 bytes here. Cards have up to 7 % more, which the CUDA context and the allocator need.
    """

    name: str
    memory: float
    bandwidth: float
    bfloat16: float
    tf32: float
    float32: float
    nvlink: float
    pcie: float
    network: float

    def products(self, dtype: str, tf32: bool) -> float:
        """FLOP/s of products of `dtype`, "bfloat16" or "float32"."""
        return self.bfloat16 if dtype == "bfloat16" else self.tf32 if tf32 else self.float32


# Data sheets of NVIDIA: A100 (June 2021, SXM), H100 (SXM5), DGX A100 (200 Gb/s a GPU) and DGX H100 (400 Gb/s).
CARDS = {
    card.name: card
    for card in (
        Card("A100-40", 40e9, 1.555e12, 312e12, 156e12, 19.5e12, nvlink=300e9, pcie=32e9, network=25e9),
        Card("A100-80", 80e9, 2.039e12, 312e12, 156e12, 19.5e12, nvlink=300e9, pcie=32e9, network=25e9),
        Card("H100", 80e9, 3.35e12, 989e12, 494e12, 67e12, nvlink=450e9, pcie=64e9, network=50e9),
    )
}


def chosen(name: str | None) -> list[Card]:
    """The card of that name; all of them for None. Raises ValueError for an unknown name."""
    if name is None:
        return list(CARDS.values())
    if name not in CARDS:
        raise ValueError(f"--card must be one of {', '.join(CARDS)}, got {name!r}{nearest(name, list(CARDS))}")
    return [CARDS[name]]
