"""From an example to a batch on the host: decode, tokenize, shuffle, resume."""
