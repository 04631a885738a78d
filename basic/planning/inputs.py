"""Shapes of a batch, from the source if it is here and from settings if not."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from basic.experiment import input_pipeline

Settings = Mapping[str, Any]


class Inputs(NamedTuple):
  """What a step reads.

  Attributes:
    batch: ShapeDtypeStructs of a global batch.
    assumed: why the source could not say them; "" where it could.
  """

  batch: dict[str, jax.ShapeDtypeStruct]
  assumed: str


def inputs(config: Settings, image: int | None = None) -> Inputs:
  """Says what a batch looks like; no vocabulary is trained for it.

  One example of the source is read. Where there is none on this machine, an
  image is a square of `image` or `augment.size` pixels, and a row has a label
  and a caption's identity as the pipeline would make them.

  Args:
    config: complete, of one stage.
    image: height and width of images in pixels, whatever the source holds;
      None leaves it to the source or to `augment.size`.

  Returns:
    Shapes, and what had to be assumed.

  Raises:
    ValueError: if neither the source nor a setting says the size of images.
  """
  text = config["text"]
  blank = None if text is None else functools.partial(_blank, text["length"])
  try:
    batch = input_pipeline.batch_shapes(config, blank)
  except (OSError, ValueError, ImportError, RuntimeError) as error:
    return Inputs(_told(config, image, error), str(error))
  if image is not None:
    batch = {
        leaf: _resized(shape, image) if len(shape.shape) == 4 else shape
        for leaf, shape in batch.items()
    }
  return Inputs(batch, "")


def _blank(length: int, caption: Any) -> np.ndarray:
  """A caption's ids, as to their shape."""
  del caption
  return np.zeros((length,), np.int32)


def _resized(shape: jax.ShapeDtypeStruct, size: int) -> jax.ShapeDtypeStruct:
  rows, _, _, channels = shape.shape
  return jax.ShapeDtypeStruct((rows, size, size, channels), shape.dtype)


def _told(config, image, error):
  """A batch by the settings alone."""
  size = image or config["augment"]["size"]
  if size is None and config["image"] is not None:
    raise ValueError(
        f"the source {config['source']['name']!r} cannot be opened here "
        f"({error}), and nothing else says how large its images are; give "
        "--image 224, or set augment.size."
    ) from error
  rows = config["batch_size"]
  channels = config["source"].get("channels", 3)
  of_tower = {
      "image": lambda: ((size, size, channels), jnp.uint8),
      "text": lambda: ((config["text"]["length"],), jnp.int32),
  }
  towers = {t: t for t in of_tower if config[t] is not None}
  leaves = {
      leaf: of_tower[tower]()
      for leaf, tower in (config["views"] or towers).items()
  }
  leaves["label"] = ((), jnp.int32)
  if config["text"] is not None:
    leaves["caption_id"] = ((2,), jnp.int32)
  return {
      leaf: jax.ShapeDtypeStruct((rows, *shape), dtype)
      for leaf, (shape, dtype) in leaves.items()
  }
