"""Evaluators, one a file: each measures an encoder on the batches it is given."""
