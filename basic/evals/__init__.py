"""Evaluators, one a file: each judges an encoder on the batches it is given."""
