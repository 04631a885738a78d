"""Losses over the embeddings of a batch, one per file; none sees a pixel."""
