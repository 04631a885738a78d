"""Datasets, one a file: each gives a `Source` of examples."""
