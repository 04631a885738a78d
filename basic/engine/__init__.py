"""The training computation: towers, one step, stages, checkpoints."""
