"""Tables of results/: the paper's numbers and ours."""
