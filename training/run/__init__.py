"""What a run leaves on the disk: its folder, metrics, checkpoints and final model; and the same numbers in wandb."""
