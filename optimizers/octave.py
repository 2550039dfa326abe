"""Octave: NorMuon with its momentum in 8 bits, for `lm_head` too. It is ours, not the paper's: docs/octave.md.

The update is NorMuon's (optimizers/normuon.py). M is rounded to bytes in blocks of 256 after every step. Embeddings and
norms are Adam's.

State of a matrix: m n bytes, m n / 64 bytes for the blocks' maxima, 4 bytes a row; 2 m n bytes below 4096 elements in
bfloat16.
"""

from dataclasses import replace

from .engine import register
from .normuon import NorMuon


@register("octave")
class Octave(NorMuon):
    """`NorMuon` that steps `lm_head` and keeps its momentum in bytes. Raises ImportError without bitsandbytes."""

    traits = replace(NorMuon.traits, state_bits=8, last_layer="method")
