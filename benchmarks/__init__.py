"""Measurements of optimizers, training steps and parallel layouts, against bounds and other implementations."""
