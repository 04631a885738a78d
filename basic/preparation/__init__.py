"""Commands of `python -m basic.prepare`, one a file."""
