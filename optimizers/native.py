"""C++ beside this file, compiled by the machine's own compiler at its first use, which takes seconds.

Only for what torch cannot express in as few passes over memory, only on a CPU, and never a need: without a compiler
`library` gives None, with one that fails it warns too, and the caller has the same in torch.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

# What -ffast-math allows but for its claim that nothing is infinite or NaN: those must reach whoever looks for them.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math",
         "-fno-signed-zeros", "-fassociative-math")  # fmt: skip


@functools.cache
def library(source: str) -> ctypes.CDLL | None:
    """The compiled file `source` of this folder, from the cache (XDG_CACHE_HOME, ~/.cache) if it is there; None
    without a compiler ($CXX, c++, g++ or clang++)."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))), None)
    if compiler is None:
        return None
    path = Path(__file__).parent / source
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llama-optimizers"
    built = cache / f"{path.stem}-{_fingerprint(path, compiler)}.so"
    try:
        if not built.is_file():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as folder:  # several processes may be here at once
                made = Path(folder) / built.name
                subprocess.run(
                    [compiler, *FLAGS, str(path), "-o", str(made)], check=True, capture_output=True, text=True
                )
                made.replace(built)
        return ctypes.CDLL(str(built))
    except (OSError, subprocess.CalledProcessError) as error:
        reason = ((getattr(error, "stderr", None) or "").strip() or str(error)).splitlines()[0]
        warnings.warn(f"{source} was not compiled, torch does the same more slowly: {reason}", stacklevel=2)
        return None


def _fingerprint(source: Path, compiler: str) -> str:
    """Of all that the machine code depends on; the cache may lie where machines of several kinds see it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        processor = platform.processor()
    parts = (source.read_text(), compiler, *FLAGS, platform.machine(), processor)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
