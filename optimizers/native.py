"""C++ beside this file, compiled by the machine's own compiler at its first use, which takes seconds.

Only for what torch cannot express in as few passes over memory, only on a CPU, and never a need: without a compiler
`function` gives None, with one that fails it warns too, and the caller has the same in torch.

A function of the library takes pointers, C longs and doubles, and is there for float and double: `name_float`,
`name_double`.
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
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

# What -ffast-math allows but for its claim that nothing is infinite or NaN: those must reach whoever looks for them.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math",
         "-fno-signed-zeros", "-fassociative-math")  # fmt: skip

C_TYPES = {torch.float32: "float", torch.float64: "double"}


def function(source: str, name: str, *tensors: Tensor) -> Callable | None:
    """`name` of the C++ file `source` for the common dtype of `tensors`, if they are plain, dense, by rows and in the
    memory of a CPU, and there is a compiler; else None. Its arguments are tensors, None (a null pointer), int and
    float."""
    first = tensors[0]
    for tensor in tensors:
        plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.device.type == "cpu"
        if not (plain and tensor.dtype == first.dtype and tensor.is_contiguous()):
            return None
    if first.dtype not in C_TYPES or (loaded := library(source)) is None:
        return None
    compiled = getattr(loaded, f"{name}_{C_TYPES[first.dtype]}")
    compiled.restype = None
    return lambda *arguments: compiled(*map(_c_argument, arguments))


def _c_argument(value: Tensor | int | float | None) -> ctypes.c_void_p | ctypes.c_long | ctypes.c_double:
    if isinstance(value, int):
        return ctypes.c_long(value)
    if isinstance(value, float):
        return ctypes.c_double(value)
    return ctypes.c_void_p(None if value is None else value.data_ptr())


def for_each(call: Callable, *lists: Iterable) -> None:
    """call(*items) for the items of `lists` side by side, on as many threads as torch uses: the calls do not hold the
    interpreter's lock."""
    if torch.get_num_threads() == 1:
        for items in zip(*lists, strict=True):
            call(*items)
    else:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(call, *lists))


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
