"""Encoders, one per file: inputs to features, one row at a time."""
