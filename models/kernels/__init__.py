"""Attention, MLP and loss of a LLaMA in the forms that are fast on each device."""
