"""Foreign checkpoints, one format to a file: names and layouts to and from ours."""
