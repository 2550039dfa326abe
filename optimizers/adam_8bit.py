"""Adam with moments in 8 bits (arXiv 2110.02861), a name for `Adam` with state_bits=8 and all of a model's parameters.

State per parameter of N elements: 2 N bytes, N / 32 bytes for the blocks' maxima (8 N bytes below 4096 elements), and
the step count.
"""

from dataclasses import replace

from .adam import Adam
from .engine import adamw_8bit, register


@register("adam_8bit")
class Adam8bit(Adam):
    """`Adam` whose moments are bytes unless `state_bits` says otherwise. Raises ImportError without bitsandbytes."""

    # Table 4's memory counts 8-bit moments for every parameter, embeddings and norms too.
    traits = replace(
        Adam.traits, state_bits=8, steps_everything=True, reference_tolerance=adamw_8bit.REFERENCE_TOLERANCE
    )
