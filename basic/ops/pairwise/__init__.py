"""Reductions over all pairs of two batches, tile by tile, on any mesh."""
