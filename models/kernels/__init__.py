"""Attention by the fastest means of each device. The rest of the project uses `models.kernels.attention` alone."""
