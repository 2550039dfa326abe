"""Tables of results/: the paper's numbers beside ours."""
