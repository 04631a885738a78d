"""Shapes of a batch, from the source, or from settings if there is none."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from basic.experiment import input_pipeline

Settings = Mapping[str, Any]


class Inputs(NamedTuple):
  """Shapes of a batch.

  Attributes:
    batch: ShapeDtypeStructs of a global batch.
    assumed: why the source could not give them; "" where it did.
  """

  batch: dict[str, jax.ShapeDtypeStruct]
  assumed: str


def inputs(config: Settings, image: int | None = None) -> Inputs:
  """Determines the shapes of a batch; no vocabulary is trained for it.

  One example of the source is read. If the source is not on this machine,
  images are assumed to be squares of `image` or `augment.size` pixels, and each
  row to have a label and a caption id as the pipeline makes them.

  Args:
    config: complete configuration of one stage.
    image: height and width of images in pixels, instead of the source's; None:
      those of the source or of `augment.size`.

  Returns:
    Shapes, and why they were assumed, if they were.

  Raises:
    ValueError: if neither the source nor a setting gives the image size, or
      `image` is not positive.
  """
  if image is not None and image < 1:
    raise ValueError(f"--image is {image}; it takes a size in pixels, from 1.")
  text = config["text"]
  blank = None if text is None else functools.partial(_blank, text["length"])
  try:
    batch = input_pipeline.batch_shapes(config, blank)
  except (OSError, ValueError, ImportError, RuntimeError) as error:
    return Inputs(_from_settings(config, image, error), str(error))
  if image is not None:
    batch = {
        field: _resized(shape, image) if len(shape.shape) == 4 else shape
        for field, shape in batch.items()
    }
  return Inputs(batch, "")


def _blank(length: int, caption: Any) -> np.ndarray:
  """Token ids of the right shape."""
  del caption
  return np.zeros((length,), np.int32)


def _resized(shape: jax.ShapeDtypeStruct, size: int) -> jax.ShapeDtypeStruct:
  rows, _, _, channels = shape.shape
  return jax.ShapeDtypeStruct((rows, size, size, channels), shape.dtype)


def _from_settings(config, image, error):
  """A batch from the settings alone."""
  size = image or config["augment"]["size"]
  if size is None and config["image"] is not None:
    raise ValueError(
        f"the source {config['source']['name']!r} cannot be opened here "
        f"({error}), so the size of its images is unknown; give --image 224, "
        "or set augment.size."
    ) from error
  rows = config["batch_size"]
  channels = config["source"].get("channels", 3)
  of_tower = {
      "image": lambda: ((size, size, channels), jnp.uint8),
      "text": lambda: ((config["text"]["length"],), jnp.int32),
  }
  towers = {t: t for t in of_tower if config[t] is not None}
  fields = {
      field: of_tower[tower]()
      for field, tower in (config["views"] or towers).items()
  }
  fields["label"] = ((), jnp.int32)
  if config["text"] is not None:
    fields["caption_id"] = ((2,), jnp.int32)
  return {
      field: jax.ShapeDtypeStruct((rows, *shape), dtype)
      for field, (shape, dtype) in fields.items()
  }
