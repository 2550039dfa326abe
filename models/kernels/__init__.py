"""Attention in the fastest form for each device. The rest of the project uses `models.kernels.attention` alone."""
