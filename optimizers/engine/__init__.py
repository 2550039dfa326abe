"""The engine under the methods: base classes, step loop, options, registry, and the partition of a model's
parameters."""

from .base import BaseOptimizer
from .direction import Direction
from .matrix import MatrixOptimizer
from .options import Option
from .registry import register
from .traits import Traits

__all__ = ["BaseOptimizer", "Direction", "MatrixOptimizer", "Option", "Traits", "register"]
