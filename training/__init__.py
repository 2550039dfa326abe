"""From one step to a finished run: the loop and its parts. `run` has the files of a run, `processes` its processes."""
