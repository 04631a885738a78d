"""Images and texts that a user gives, as the towers of a model read them."""

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from concurrent import futures
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int32, UInt8

from basic import types
from basic.data import images, pictures
from basic.experiment import input_pipeline, towers

_DECODING = 8  # threads
_AT_ONCE = 64  # pictures that are decoded ahead of the model


class Images(NamedTuple):
  """How a model reads images: exactly as its evaluations do.

  Attributes:
    shape: (height, width, channels) that the tower takes.
    settings: of images.augment, which evaluations use without randomness.
    augment: (image or its file, None) -> pixels of this shape.
  """

  shape: tuple[int, ...]
  settings: Mapping[str, Any]
  augment: images.Augment

  @classmethod
  def of(cls, trained: towers.Towers, field: str) -> "Images":
    """How the towers read images.

    Args:
      trained: the towers.
      field: of a batch that the image tower encodes.

    Raises:
      ValueError: if the tower takes no images of the size that is set.
    """
    settings = trained.config["augment"]
    shape = _shape(trained, field)
    if settings["size"] is None and shape[0] == shape[1]:
      # Of other sizes none can be encoded; those of this size are left as is.
      settings = {**settings, "size": shape[0]}
    return cls(shape, settings, images.augment(**settings))

  def rows(self, given: Iterable[Any]) -> Iterator[UInt8[np.ndarray, "h w c"]]:
    """Reads images, a few at a time; see `pictures.read`.

    Raises:
      FileNotFoundError: if a path is that of no file.
      ValueError: if one is no image or cannot be read; its number is in the
        message.
    """
    numbered = enumerate(given)
    with futures.ThreadPoolExecutor(_DECODING) as pool:
      while some := list(itertools.islice(numbered, _AT_ONCE)):
        yield from pool.map(self._row, some)

  def _row(self, given: tuple[int, Any]) -> np.ndarray:
    number, picture = given
    try:
      read = pictures.read(picture, channels=self.shape[2])
      pixels = np.asarray(self.augment(read, None))
    except types.Unreadable as error:
      detail = str(error).removeprefix(error.reason).removeprefix(": ")
      raise types.Unreadable(error.reason, f"images[{number}]: {detail}") from error
    except (OSError, ValueError) as error:
      raise type(error)(f"images[{number}]: {error}") from error
    if pixels.shape != self.shape:
      raise ValueError(
          f"images[{number}] is {list(pixels.shape)} where the tower reads "
          f"{list(self.shape)}, and augment.size is not set; resize it."
      )
    return pixels


def ids(
    trained: towers.Towers, texts: Any
) -> Iterator[Int32[np.ndarray, "t"]]:
  """Texts as token ids.

  Raises:
    ValueError: if one is blank or no text, or there is no vocabulary.
  """
  if trained.tokenizer is None or not isinstance(texts, Iterable):
    raise ValueError(
        f"found a {type(texts).__name__}; expected one or more texts, and a model "
        "with a vocabulary."
    )
  for n, text in enumerate((texts,) if isinstance(texts, str) else texts):
    if not isinstance(text, str) or not text.strip():
      raise ValueError(f"texts[{n}] is {text!r:.80}; expected words.")
    yield trained.tokenizer(text)


def _shape(trained: towers.Towers, field: str) -> tuple[int, ...]:
  """The shape of the images that the tower accepts."""
  size = trained.config["augment"]["size"]
  if size is None:  # Images are as their source gives them.
    try:
      shapes = input_pipeline.batch_shapes(trained.config, trained.tokenizer)
    except FileNotFoundError as error:
      raise FileNotFoundError(
          f"{trained.origin} was trained on images of the size that its data has, "
          f"since augment.size is not set, and that data is not here: {error} Put "
          "it there, or train with augment.size."
      ) from error
    return tuple(shapes[field].shape[1:])
  encode, refused = functools.partial(_encode, trained), None
  for channels in (3, 1):
    one = jax.ShapeDtypeStruct((1, size, size, channels), np.uint8)
    try:
      jax.eval_shape(encode, trained.params, {field: one})
      return size, size, channels
    except Exception as error:  # Each library has its own for other shapes.
      refused = error
  raise ValueError(
      f"{trained.origin} reads no images of {size} by {size} pixels: {refused}"
  )


def _encode(trained: towers.Towers, params: types.Params, batch: types.Batch) -> Any:
  return trained.model.encode(params, batch)
