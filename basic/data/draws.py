"""The random numbers of one example: a function of (seed, its number)."""

import threading

import numpy as np

from basic.data import orders


class Draws:
  """number of an example -> its generator, Philox with that number as counter.

  Each thread has one generator and sets its counter, since to make a generator
  costs ten times as much. So the generator of an example is valid until the
  thread asks for the next.

  Args:
    seed: 0 to 2**32 - 1.

  Example:
    >>> draws = Draws(0)
    >>> float(draws(5).random()) == float(draws(5).random())
    True
  """

  def __init__(self, seed: int):
    self.seed = seed
    self._local = threading.local()

  def __call__(self, number: int) -> np.random.Generator:
    local = self._local
    if not hasattr(local, "generator"):
      # The bits of `grain.MapDataset.random_map`, with which runs have begun.
      local.generator = np.random.Generator(
          np.random.Philox(orders.derived(self.seed, 3))
      )
      local.state = local.generator.bit_generator.state
    local.state["state"]["counter"][3] = number
    local.generator.bit_generator.state = local.state
    return local.generator

  def __reduce__(self):
    return Draws, (self.seed,)
