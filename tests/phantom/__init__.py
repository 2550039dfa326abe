"""A CUDA device that is not there: what a GPU would be asked to do is counted on fake tensors, with a CPU's torch."""
