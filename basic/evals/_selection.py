"""The strength of a regularisation, chosen on a part of the training split."""

from collections.abc import Callable
from typing import Any

import numpy as np

# Eight a decade from 1e-6 to 1e6.
GRID = tuple(float(10.0 ** (n / 8)) for n in range(-48, 49))
_COARSE = 16  # every second decade


def held_out(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
  """Chooses the rows to validate on: the same fraction of each class.

  Args:
    labels: classes [n]; zeros where there are none.
    fraction: of each class, rounded down.
    seed: of the choice.

  Returns:
    bool [n]; all True if the classes are too small for any.
  """
  order = np.random.default_rng(seed).permutation(len(labels))
  chosen = np.zeros(len(labels), bool)
  for each in np.unique(labels):
    rows = order[labels[order] == each]
    chosen[rows[: int(fraction * len(rows))]] = True
  return chosen if chosen.any() else np.ones(len(labels), bool)


def search(quality: Callable[[float], Any]) -> float:
  """The best strength of `GRID`, by halving the interval around the best so far.

  Begins with every second decade and ends with eight strengths a decade, which
  takes 15 fits at most. This is the protocol of CLIP.

  Args:
    quality: strength -> what is larger for a better one; compared by `<`.

  Returns:
    The strength; the larger one of equals.

  References:
    Radford et al., Learning Transferable Visual Models From Natural Language
    Supervision, 2021, appendix A.3. https://arxiv.org/abs/2103.00020
  """
  found = {n: quality(GRID[n]) for n in range(0, len(GRID), _COARSE)}
  step = _COARSE // 2
  while step:
    best = max(found, key=lambda n: (found[n], n))
    for n in (best - step, best + step):
      if 0 <= n < len(GRID):
        found[n] = quality(GRID[n])
    step //= 2
  return GRID[max(found, key=lambda n: (found[n], n))]
