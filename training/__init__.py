"""From one step to a finished run: the loop and its parts; in `run` what a run leaves on the disk; in `processes` how
several processes work on it."""
