"""From one step to a finished run: loop, evaluation, records, checkpoints, and many processes."""
