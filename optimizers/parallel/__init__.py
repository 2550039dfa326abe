"""Optimizers on several processes.

Parameters sharded by rows, as `torch.distributed.fsdp.fully_shard` leaves them: DTensors with placement Shard(0) on a
one-dimensional mesh of W processes. A method that works element by element (Adam) steps the rows that a process holds.
A method that needs whole matrices has an owner for each: matrices of one shape are dealt to the processes in turn. One
all-to-all brings the owners the gradients of up to W times as many matrices as are stacked at once, the owner steps its
stack as if nothing were sharded, and a second all-to-all hands every process its rows of the change. Only the owner
holds state. Rows are cut as torch.chunk cuts them: ceil(rows / W) for each process, fewer or none for the last ones.

Replicas (DDP) have the same gradients. They can deal the matrices among them: each is stepped by one process, which
holds its state and sends its new weight to the others. Or every process steps all of them, and only the refreshes of
bases are shared.
"""
