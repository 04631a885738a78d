"""What a run writes besides its checkpoints: metadata, metrics and progress."""
