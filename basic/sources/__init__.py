"""Where examples come from: one kind of data per file, each a `Source`."""
