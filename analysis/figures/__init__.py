"""Figures of results/: the paper's curves and bars, with ours in front where there are runs."""
