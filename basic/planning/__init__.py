"""Memory, work and time of a training step, without running it."""
