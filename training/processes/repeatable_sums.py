"""Sums that do not depend on where memory lies: docs/numerics.md. Import this before torch.

MKL may choose the order of a sum by the addresses of its arguments, unless MKL_CBWR says otherwise before its first
product. It may use fewer threads than it has at some products, and a sum depends on their number, unless MKL_DYNAMIC is
FALSE. A user's own values stay. Where a host program has loaded torch, nothing is changed.
"""

import os
import re
import sys
from pathlib import Path

ZEN_3 = 25  # its "cpu family"


def ask_mkl(processor: Path = Path("/proc/cpuinfo")) -> None:
    """Set MKL_DYNAMIC, and MKL_CBWR where that is known to cost nothing: on Intel's processors, and AMD's since Zen 3.
    Others may get MKL's slowest loops."""
    if "torch" in sys.modules:
        return
    os.environ.setdefault("MKL_DYNAMIC", "FALSE")
    if _has_fast_mode(processor):
        os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


def _has_fast_mode(processor: Path) -> bool:
    try:
        text = processor.read_text()
    except OSError:  # another operating system
        return False
    family = re.search(r"^cpu family\s*: (\d+)$", text, re.MULTILINE)
    return "GenuineIntel" in text or ("AuthenticAMD" in text and family is not None and int(family[1]) >= ZEN_3)


ask_mkl()
