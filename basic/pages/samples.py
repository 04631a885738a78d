"""Held-out examples with their embeddings, which most sections show."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from basic.pages import markup, plots


class Samples(NamedTuple):
  """Held-out examples and their embeddings.

  Attributes:
    images: uint8 [n h w c], of 1 or 3 channels.
    captions: n strings; an image matches every caption equal to its own. Without
      a text tower they only name the images, and may be empty.
    image_embeddings: float32 [n d], unit vectors.
    text_embeddings: float32 [n d], unit vectors; None without a text tower.
    scale: the logit scale, by which similarities are multiplied; positive.
  """

  images: UInt8[np.ndarray, "n h w c"]
  captions: list[str]
  image_embeddings: Float[np.ndarray, "n d"]
  text_embeddings: Float[np.ndarray, "n d"] | None
  scale: float


def check(samples: Samples) -> None:
  """Refuses samples that are inconsistent.

  Raises:
    ValueError: if there are none, or they differ in number or width.
  """
  counts = {
      "images": len(samples.images),
      "captions": len(samples.captions),
      "image_embeddings": len(samples.image_embeddings),
  }
  if samples.text_embeddings is not None:
    counts["text_embeddings"] = len(samples.text_embeddings)
  if len(set(counts.values())) > 1 or not counts["images"]:
    raise ValueError(
        f"Samples need the same number of each, and at least one; they have "
        f"{counts}. For a page without samples pass None."
    )
  if samples.text_embeddings is None:
    return
  widths = samples.image_embeddings.shape[1], samples.text_embeddings.shape[1]
  if widths[0] != widths[1]:
    raise ValueError(
        f"Image embeddings are {widths[0]} wide and text embeddings "
        f"{widths[1]}; similarities need equal widths."
    )


def finite(samples: Samples) -> Samples | None:
  """Those samples whose embeddings are finite; None if there are none.

  A diverged run has others, and they are near to nothing and far from nothing.
  """
  kept = np.isfinite(samples.image_embeddings).all(1)
  if samples.text_embeddings is not None:
    kept &= np.isfinite(samples.text_embeddings).all(1)
  if not kept.any():
    return None
  texts = samples.text_embeddings
  return samples._replace(
      images=samples.images[kept],
      captions=[samples.captions[i] for i in np.flatnonzero(kept)],
      image_embeddings=samples.image_embeddings[kept],
      text_embeddings=None if texts is None else texts[kept],
  )


def similarities(samples: Samples) -> Float[np.ndarray, "i j"]:
  """Cosines of all images i and captions j.

  Raises:
    ValueError: if the samples have no text embeddings.
  """
  if samples.text_embeddings is None:
    raise ValueError("These samples have no text embeddings to compare with.")
  return samples.image_embeddings @ samples.text_embeddings.T


def same(samples: Samples) -> Bool[np.ndarray, "i j"]:
  """Whether the caption of image i equals caption j."""
  captions = np.array(samples.captions, object)
  return captions[:, None] == captions[None, :]


def distinct(samples: Samples) -> list[int]:
  """Index of the first occurrence of each different caption."""
  first: dict[str, int] = {}
  for i, caption in enumerate(samples.captions):
    first.setdefault(caption, i)
  return list(first.values())


def image(samples: Samples, i: int, size: int) -> str:
  """An <img> of example i that is at most `size` pixels high and wide."""
  pixels = samples.images[i]
  kind = ' class="pixels"' if max(pixels.shape[:2]) < 64 else ""
  caption = markup.text(samples.captions[i])
  return f'<img{kind} src="{plots.thumbnail(pixels, size)}" alt="{caption}">'


def match(
    i: int | np.integer, samples: Samples, cosine: float | np.floating, *,
    is_right: bool | np.bool_, size: int = 96, says: str = "",
) -> str:
  """A list item: example i as an image with its similarity to something."""
  name = ' class="right"' if is_right else ""
  below = f"<span>{markup.text(says, 90)}</span>" if says else ""
  return (
      f"<li{name}>{image(samples, int(i), size)}"
      f"<small>{tick(is_right)}{cosine:.3f}</small>{below}</li>"
  )


def tick(is_right: bool | np.bool_) -> str:
  """A sign besides the colour, for readers who cannot distinguish colours."""
  return '<b title="the right one">\N{CHECK MARK}</b> ' if is_right else ""
