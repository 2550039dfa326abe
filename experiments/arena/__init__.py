"""The runs of an arena: tuning within one number of runs for every row, then seeds, data ratios and published recipes."""
