"""The runs of an arena: tuning in equally many runs for each row, then seeds, data ratios and published recipes."""
