"""Ways to the same gradient of an objective over all pairs of a batch.

One way a file. Every factory returns a `types.Gradient`: `direct` is ordinary
reverse mode, `cached` keeps the activations of a chunk of rows at a time, and
`in_slots` does so too and hands each chunk's contribution to the optimizer.
"""

from basic.gradient._rows import row_keys, waiting
from basic.gradient.cached import cached
from basic.gradient.direct import direct
from basic.gradient.in_slots import in_slots

__all__ = ["cached", "direct", "in_slots", "row_keys", "waiting"]
