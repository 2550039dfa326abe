"""Makes sums of Intel's MKL a function of their numbers alone. To be imported before torch, which brings MKL.

On Intel processors MKL chooses its loops by where memory lies, so a resumed run could round differently from an
undisturbed one (docs/numerics.md). A value of MKL_CBWR that the user has set is left alone. Processors of other makers
get none: MKL may answer with its slowest code there.
"""

import os
from pathlib import Path


def on_intel() -> bool:
    """Whether this machine's processor is Intel's."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


if on_intel():
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
