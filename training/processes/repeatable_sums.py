"""Sums that do not depend on where memory lies: docs/numerics.md. Import this before torch.

On Intel processors MKL may choose the order of a sum by the addresses of its arguments, unless MKL_CBWR says otherwise
before its first product. On any processor it may use fewer threads than it has at some products, and a sum depends on
their number, unless MKL_DYNAMIC is FALSE. A user's own values stay. Where a host program has loaded torch, nothing is
changed.
"""

import os
import sys
from pathlib import Path


def ask_mkl(processor: Path = Path("/proc/cpuinfo")) -> None:
    """Set MKL_DYNAMIC, and MKL_CBWR where MKL has such a mode: on Intel's processors. Others would get its slowest
    loops."""
    if "torch" in sys.modules:
        return
    os.environ.setdefault("MKL_DYNAMIC", "FALSE")
    if _is_intels(processor):
        os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


def _is_intels(processor: Path) -> bool:
    try:
        return "GenuineIntel" in processor.read_text()
    except OSError:  # another operating system
        return False


ask_mkl()
