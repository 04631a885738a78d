"""Augmentations: one a file, made from one example, before it is in a batch."""
