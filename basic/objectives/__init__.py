"""Losses over all pairs of a batch, one to a file; none ever sees a pixel."""
