"""What a run asks of a cluster, by arithmetic: the memory of one of N processes, and bounds of the time of a step."""
