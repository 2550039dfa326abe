"""The files of a run: its folder, metrics, checkpoints, summary, final model and curve; its numbers in wandb."""
