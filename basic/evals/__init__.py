"""Evaluators, one per file: each computes metrics of an encoder on batches."""
