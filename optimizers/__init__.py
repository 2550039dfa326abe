"""Memory-efficient optimizers for matrices, usable with torch alone.

import optimizers

optimizer = optimizers.build(model, "alice", lr=0.02, adam_lr=1e-3, rank=128)
"""

from .adafactor import Adafactor
from .adam import Adam
from .adam_8bit import Adam8bit
from .adam_mini import AdamMini
from .alice import Alice
from .alice_soap import AliceSOAP
from .apollo import Apollo
from .dion import Dion
from .eigen_adam import EigenAdam
from .engine import partition, registry
from .engine.base import BaseOptimizer
from .engine.build import build, state_bytes
from .fira import Fira
from .flip_flop import FlipFlop
from .galore import GaLore
from .galore_8bit import GaLore8bit
from .lamb import LAMB
from .lars import LARS
from .ldadam import LDAdam
from .lion import Lion
from .muon import Muon
from .natural_galore import NaturalGaLore
from .normuon import NorMuon
from .octave import Octave
from .racs import RACS
from .racs_muon import RACSMuon
from .scale import SCALE
from .shampoo import Shampoo
from .sinkgd import SinkGD
from .soap import SOAP
from .swan import SWAN

__all__ = [
    "LAMB",
    "LARS",
    "RACS",
    "SCALE",
    "SOAP",
    "SWAN",
    "Adafactor",
    "Adam",
    "Adam8bit",
    "AdamMini",
    "Alice",
    "AliceSOAP",
    "Apollo",
    "BaseOptimizer",
    "Dion",
    "EigenAdam",
    "Fira",
    "FlipFlop",
    "GaLore",
    "GaLore8bit",
    "LDAdam",
    "Lion",
    "Muon",
    "NaturalGaLore",
    "NorMuon",
    "Octave",
    "RACSMuon",
    "Shampoo",
    "SinkGD",
    "build",
    "partition",
    "registry",
    "state_bytes",
]
