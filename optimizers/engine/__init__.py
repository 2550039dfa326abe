"""The engine under the methods: base classes, the step loop, options, names, and how parameters are parted."""

from .base import BaseOptimizer
from .direction import Direction
from .matrix import MatrixOptimizer
from .options import Option
from .registry import register
from .traits import Traits

__all__ = ["BaseOptimizer", "Direction", "MatrixOptimizer", "Option", "Traits", "register"]
