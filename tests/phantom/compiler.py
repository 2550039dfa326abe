"""The C++ compiler that guard.cpp needs."""

import os
import shutil


def compiler() -> str | None:
    """$CXX, c++, g++ or clang++; None if there is none."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))), None)
