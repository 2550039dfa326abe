"""From settings to many runs: sweeps, the plans over the nano files, and the queue that runs them."""
