"""GaLore with moments in 8 bits, a name for `GaLore` with state_bits=8 and a last layer that Adam steps.

The basis keeps the parameter's dtype. State per matrix: m r numbers, 2 r n bytes and r n / 32 bytes for the blocks'
maxima (2 r n numbers where r n < 4096).
"""

from dataclasses import replace

from .engine import register
from .galore import GaLore


@register("galore_8bit")
class GaLore8bit(GaLore):
    """`GaLore` whose moments are bytes unless `state_bits` says otherwise. Raises ImportError without bitsandbytes."""

    traits = replace(GaLore.traits, state_bits=8, last_layer="adam")
