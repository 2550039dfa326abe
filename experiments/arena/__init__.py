"""The runs of an arena: tuning within one number of runs a row, then seeds, data ratios and published recipes."""
