"""What a run writes beside its weights: facts, numbers, progress."""
