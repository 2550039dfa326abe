"""Structures of the empirical Fisher: how close each optimizer's is to that of a trained model."""
