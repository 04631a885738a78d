"""Layers of image towers as loops over NumPy float64, from their equations."""

import numpy as np


def convolve(x, params, stride):
  """A 3 x 3 convolution of [h w c] with XLA's "SAME" padding.

  On even sides a stride of 2 pads after the last pixels alone.
  """
  before = 1 if stride == 1 else 0
  x = np.pad(x, ((before, 1), (before, 1), (0, 0)))
  rows, columns = (range(0, side - 2, stride) for side in x.shape[:2])
  return params["bias"] + np.array([
      [
          np.tensordot(x[i : i + 3, j : j + 3], params["kernel"], 3)
          for j in columns
      ]
      for i in rows
  ])
