"""The processes of a run: their start, the model's layout on them, signals, and one end for all when one fails."""
