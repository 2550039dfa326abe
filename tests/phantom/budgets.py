"""The most that a plain step of each optimizer may launch, move and hold, on llama_60m and llama_1_3b in bfloat16.

A figure here is what was counted, rounded up by a few per cent: a change that costs more must say so here.
"""

from typing import NamedTuple


class Budget(NamedTuple):
    launches: int
    times_bound: float  # bytes over training/cluster/bounds.py's
    transients: float  # GiB


BUDGETS: dict[str, dict[str, Budget]] = {
    "adafactor": {"llama_60m": Budget(207, 8.7, 0.38), "llama_1_3b": Budget(900, 8.7, 0.78)},
    "adam": {"llama_60m": Budget(6, 1.01, 0.01), "llama_1_3b": Budget(70, 1.01, 0.01)},
    "adam_8bit": {"llama_60m": Budget(77, 1.25, 0.01), "llama_1_3b": Budget(225, 1.25, 0.01)},
    "adam_mini": {"llama_60m": Budget(210, 6, 0.38), "llama_1_3b": Budget(660, 6, 0.77)},
    "alice": {"llama_60m": Budget(322, 3.9, 0.15), "llama_1_3b": Budget(1450, 4.45, 0.65)},
    "alice_0": {"llama_60m": Budget(320, 3.85, 0.15), "llama_1_3b": Budget(1430, 4.4, 0.65)},
    "alice_soap": {"llama_60m": Budget(520, 11.9, 0.22), "llama_1_3b": Budget(2420, 16.5, 1.12)},
    "apollo": {"llama_60m": Budget(200, 1.75, 0.07), "llama_1_3b": Budget(1070, 2.6, 0.4)},
    "apollo_mini": {"llama_60m": Budget(210, 1.6, 0.05), "llama_1_3b": Budget(1130, 2.55, 0.27)},
    "apollo_svd": {"llama_60m": Budget(200, 1.75, 0.07), "llama_1_3b": Budget(1070, 2.6, 0.4)},
    "dion": {"llama_60m": Budget(113, 2.9, 0.11), "llama_1_3b": Budget(550, 5, 0.65)},
    "eigen_adam": {"llama_60m": Budget(110, 4.6, 0.18), "llama_1_3b": Budget(530, 7.8, 1.05)},
    "fira": {"llama_60m": Budget(322, 3.95, 0.15), "llama_1_3b": Budget(1450, 4.5, 0.65)},
    "flip_flop": {"llama_60m": Budget(350, 10.5, 0.22), "llama_1_3b": Budget(1550, 16.8, 1.15)},
    "galore": {"llama_60m": Budget(100, 2.8, 0.15), "llama_1_3b": Budget(380, 3.05, 0.65)},
    "galore_8bit": {"llama_60m": Budget(218, 3.4, 0.13), "llama_1_3b": Budget(1000, 7.65, 0.81)},
    "lamb": {"llama_60m": Budget(210, 3.7, 0.4), "llama_1_3b": Budget(1580, 5.8, 1.05)},
    "lars": {"llama_60m": Budget(196, 2.5, 0.3), "llama_1_3b": Budget(1100, 4.1, 0.8)},
    "ldadam": {"llama_60m": Budget(191, 4.9, 0.17), "llama_1_3b": Budget(1020, 8.9, 1.09)},
    "lion": {"llama_60m": Budget(104, 6.0, 0.26), "llama_1_3b": Budget(390, 6.0, 0.52)},
    "muon": {"llama_60m": Budget(158, 3.85, 0.1), "llama_1_3b": Budget(770, 7.95, 0.65)},
    "natural_galore": {"llama_60m": Budget(187, 4.2, 0.41), "llama_1_3b": Budget(1210, 4.5, 0.95)},
    "normuon": {"llama_60m": Budget(220, 4.2, 0.11), "llama_1_3b": Budget(1140, 8.8, 0.65)},
    "octave": {"llama_60m": Budget(295, 8.95, 0.19), "llama_1_3b": Budget(1290, 14.5, 0.9)},
    "racs": {"llama_60m": Budget(368, 2.48, 0.07), "llama_1_3b": Budget(2030, 5.0, 0.39)},
    "racs_muon": {"llama_60m": Budget(515, 14.5, 0.26), "llama_1_3b": Budget(2420, 23, 1.29)},
    "scale": {"llama_60m": Budget(103, 3.8, 0.19), "llama_1_3b": Budget(390, 2.6, 0.76)},
    "shampoo": {"llama_60m": Budget(76, 2.25, 0.13), "llama_1_3b": Budget(330, 3.1, 0.8)},
    "sinkgd": {"llama_60m": Budget(258, 4.3, 0.09), "llama_1_3b": Budget(1420, 9.9, 0.52)},
    "soap": {"llama_60m": Budget(120, 4.7, 0.26), "llama_1_3b": Budget(590, 6.6, 1.55)},
    "swan": {"llama_60m": Budget(285, 13.6, 0.15), "llama_1_3b": Budget(1580, 41.5, 1.05)},
}

# The same with state_bits=8, on llama_60m: methods of stacks, of lists, and with moments in a basis; GaLore and
# LAMB round a moment stochastically. Bytes are over the bound of wide moments.
EIGHT_BITS = {
    "alice": Budget(362, 4.35, 0.145),
    "galore": Budget(255, 4.85, 0.181),
    "lamb": Budget(1700, 6.55, 0.49),
    "muon": Budget(176, 4.8, 0.155),
}

# Plain steps with stochastic rounding: methods with a slow moment (Adam, GaLore) and without, one whose every matrix is
# alone in float32, and bitsandbytes' step, between float32 copies of whole weights.
ROUNDED: dict[str, dict[str, Budget]] = {
    "adam": {"llama_60m": Budget(1980, 11.2, 0.09), "llama_1_3b": Budget(9300, 11.2, 0.09)},
    "adam_8bit": {"llama_60m": Budget(810, 8.2, 0.125), "llama_1_3b": Budget(3500, 8.2, 0.5)},
    "alice": {"llama_60m": Budget(1370, 9.4, 0.165), "llama_1_3b": Budget(5700, 8.7, 0.59)},
    "galore": {"llama_60m": Budget(1500, 10.3, 0.165), "llama_1_3b": Budget(5700, 9.8, 0.59)},
    "lion": {"llama_60m": Budget(760, 11.9, 0.34), "llama_1_3b": Budget(3450, 11.9, 0.78)},
    "racs": {"llama_60m": Budget(1540, 12.1, 0.09), "llama_1_3b": Budget(6700, 13.8, 0.39)},
}

# Launches of forward and backward of 16 rows of 256, without and with padding.
PASSES = {"llama_60m": (1010, 1030)}
