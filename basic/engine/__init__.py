"""What a run computes and saves: towers, one step, checkpoints."""
