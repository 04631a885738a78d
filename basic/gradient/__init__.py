"""Strategies for the gradient of an objective over all pairs of a batch.

One strategy per file, all with the same result. Every factory returns a
`types.Gradient`: `direct` is ordinary reverse mode; `cached` recomputes
activations, so that only those of one chunk of rows are in memory; `in_slots`
does that too, and hands each chunk's contribution to the optimizer instead of
summing them.
"""

from basic.gradient._rows import row_keys, waiting
from basic.gradient.cached import cached
from basic.gradient.direct import direct
from basic.gradient.in_slots import in_slots

__all__ = ["cached", "direct", "in_slots", "row_keys", "waiting"]
