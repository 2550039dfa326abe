"""The mathematics that methods share: functions of tensors, each once, each to be read next to the paper. Those that
advance state do so in place, and say so.

Shapes: a stack of B matrices is [B, m, n], with m <= n unless a method takes its matrices as they stand; a basis is
[B, m, r] with orthonormal columns. A function computes in the dtype it is given, which is float32 or float64, but for
gradients of `Traits.takes_narrow` and the iterations of Newton-Schulz. "sumsq" is a sum of squares.
"""
