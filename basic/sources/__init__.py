"""Datasets, one a file: each gives a `Source` of examples."""

from basic.sources._check import check

__all__ = ["check"]
