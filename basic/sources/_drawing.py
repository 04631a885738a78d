"""Shapes and textures as antialiased masks, computed once per size.

A mask is the fraction of each pixel that the shape covers: the mean of an
inside test at 4 by 4 points of the pixel (supersampling). Shapes are defined in
the square [-1, 1]^2, with u to the right and v down; textures are defined in
pixels, so that stripes are equally wide on small and large objects.
"""

import functools

import numpy as np
from jaxtyping import Bool, Float, Float32

_SAMPLES = 4  # per side of a pixel


@functools.cache
def mask(shape: str, size: int) -> Float32[np.ndarray, "s s"]:
  """The fraction of each pixel that a shape of `size` pixels covers."""
  points = (np.arange(size * _SAMPLES) + 0.5) / (size * _SAMPLES) * 2 - 1
  v, u = np.meshgrid(points, points, indexing="ij")
  return _mean(_SHAPES[shape](u, v))


@functools.cache
def texture(name: str, size: int) -> Float32[np.ndarray, "s s"]:
  """The fraction of each pixel in the full colour; the rest is darker."""
  points = (np.arange(size * _SAMPLES) + 0.5) / _SAMPLES - size / 2
  y, x = np.meshgrid(points, points, indexing="ij")
  return _mean(_TEXTURES[name](x, y))


def _mean(inside: Bool[np.ndarray, "n n"]) -> Float32[np.ndarray, "s s"]:
  size = len(inside) // _SAMPLES
  parts = inside.reshape(size, _SAMPLES, size, _SAMPLES)
  return parts.mean((1, 3), dtype=np.float32)


def _star(
    u: Float[np.ndarray, "n n"], v: Float[np.ndarray, "n n"]
) -> Bool[np.ndarray, "n n"]:
  """Five points: inside four or five of the half-planes of a pentagram."""
  turns = 2 * np.pi * np.arange(5) / 5
  edges = [u * np.sin(t) + v * np.cos(t) < 0.3 for t in turns]
  return np.sum(edges, axis=0) >= 4


def _heart(
    u: Float[np.ndarray, "n n"], v: Float[np.ndarray, "n n"]
) -> Bool[np.ndarray, "n n"]:
  x, y = 1.2 * u, 0.15 - 1.15 * v
  return (x**2 + y**2 - 1) ** 3 < x**2 * y**3


def _wrap(x: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
  """The signed distance to the nearest multiple of four pixels."""
  return (x + 2) % 4 - 2


_SHAPES = {
    "circle": lambda u, v: u**2 + v**2 < 0.95**2,
    "square": lambda u, v: np.maximum(abs(u), abs(v)) < 0.85,
    "triangle": lambda u, v: (abs(u) < (v + 0.9) / 1.8) & (v < 0.85),
    "diamond": lambda u, v: 1.3 * abs(u) + abs(v) < 1.0,
    "cross": lambda u, v: (
        (np.minimum(abs(u), abs(v)) < 0.3)
        & (np.maximum(abs(u), abs(v)) < 0.95)
    ),
    "ring": lambda u, v: abs(u**2 + v**2 - 0.56) < 0.34,
    "star": _star,
    "heart": _heart,
}
_TEXTURES = {
    "solid": lambda x, y: np.full(x.shape, True),
    "striped": lambda x, y: (x + y) % 5 < 2.5,
    "dotted": lambda x, y: _wrap(x) ** 2 + _wrap(y) ** 2 > 1.7,
}
