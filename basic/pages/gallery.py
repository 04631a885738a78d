"""Shows held-out examples with their nearest captions and images."""

import html
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from basic.pages import plots

Number = float | np.floating
Truth = bool | np.bool_

_HEAT_MAP = 24  # examples of the heat map; as many cells fit on a phone
_SHOWN = 12  # examples in each gallery
_NEAREST = 3  # nearest neighbours shown for each


class Samples(NamedTuple):
  """Held-out examples and their embeddings.

  Attributes:
    images: uint8 [n h w c], of 1 or 3 channels.
    captions: n strings; an image matches every caption equal to its own.
    image_embeddings: float32 [n d], unit vectors.
    text_embeddings: float32 [n d], unit vectors.
    scale: the logit scale, by which similarities are multiplied; positive.
  """

  images: UInt8[np.ndarray, "n h w c"]
  captions: list[str]
  image_embeddings: Float[np.ndarray, "n d"]
  text_embeddings: Float[np.ndarray, "n d"]
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
      "text_embeddings": len(samples.text_embeddings),
  }
  if len(set(counts.values())) > 1 or not counts["images"]:
    raise ValueError(
        f"Samples need the same number of each, and at least one; they have "
        f"{counts}. For a page without samples pass None."
    )
  widths = samples.image_embeddings.shape[1], samples.text_embeddings.shape[1]
  if widths[0] != widths[1]:
    raise ValueError(
        f"Image embeddings are {widths[0]} wide and text embeddings "
        f"{widths[1]}; similarities need equal widths."
    )


def similarity_histogram(samples: Samples) -> str:
  """Draws histograms of cosine similarities, matched and unmatched pairs.

  A pair matches if its caption equals the image's own.
  """
  s = _similarities(samples)
  matched, unmatched = np.diagonal(s), s[~_same(samples)]
  facts = {"matched, mean": f"{matched.mean():.3f}"}
  if len(unmatched):
    below = np.searchsorted(np.sort(unmatched), matched) / len(unmatched)
    facts["unmatched, mean"] = f"{unmatched.mean():.3f}"
    facts["matched above unmatched"] = f"{below.mean():.1%}"  # the AUC
  facts["scale"] = f"{samples.scale:.4g}"
  picture = plots.histogram(
      {"matched pairs": matched, "unmatched pairs": unmatched},
      unit="cosine similarity",
  )
  items = "".join(
      f"<div><dt>{name}</dt><dd>{value}</dd></div>"
      for name, value in facts.items()
  )
  return (
      f"<figure>{picture}<dl>{items}</dl><figcaption>{len(matched):,} images "
      "with their own captions, and with all others. Each histogram has "
      "area 1.</figcaption></figure>"
  )


def heat_map(samples: Samples) -> str:
  """Draws similarities of images (rows) and captions (columns) as a table."""
  shown = _distinct(samples)[:_HEAT_MAP]
  s = _similarities(samples)[np.ix_(shown, shown)]
  low, high = float(s.min()), float(s.max())
  colors = plots.heat((s - low) / max(high - low, 1e-9))
  captions = [html.escape(samples.captions[i]) for i in shown]
  head = "".join(
      f'<th scope="col" title="{caption}"><span>{caption}</span></th>'
      for caption in captions
  )
  rows = []
  for row, i in enumerate(shown):
    cells = "".join(
        f'<td style="background:{colors[row, column]}" '
        f'title="{caption}: {s[row, column]:.3f}"></td>'
        for column, caption in enumerate(captions)
    )
    image = _image(samples, i, 32)
    rows.append(f'<tr><th scope="row">{image}</th>{cells}</tr>')
  stops = ",".join(plots.heat(np.linspace(0, 1, 9)))
  return (
      '<figure class="wide"><div class="scroll"><table class="heat">'
      f"<thead><tr><td></td>{head}</tr></thead>"
      f"<tbody>{''.join(rows)}</tbody></table></div>"
      f'<div class="key"><span>{low:.2f}</span>'
      f'<i style="background:linear-gradient(90deg,{stops})"></i>'
      f"<span>{high:.2f}</span> cosine similarity</div>"
      "<figcaption>Each row is an image, each column a caption, in the same "
      "order, so matches are on the diagonal.</figcaption></figure>"
  )


def captions_of_images(samples: Samples) -> str:
  """Shows images with their nearest captions."""
  candidates = _distinct(samples)
  s = _similarities(samples)[:, candidates]
  same = _same(samples)[:, candidates]
  probability = _softmax(samples.scale * s)
  captions = [samples.captions[j] for j in candidates]
  cards = []
  for i in _evenly(len(s)):
    nearest = _nearest(s[i])
    items = [
        _match(captions[j], s[i, j], probability[i, j], same[i, j])
        for j in nearest
    ]
    if not same[i, nearest].any():
      own = int(np.argmax(same[i]))
      rank = 1 + int((s[i] > s[i, own]).sum())
      caption = f"{rank}. {samples.captions[i]}"
      items.append(_match(caption, s[i, own], probability[i, own], True, "own"))
    cards.append(
        f'<div class="card">{_image(samples, i, 128)}'
        f"<ul>{''.join(items)}</ul></div>"
    )
  return (
      f"<p>For {_first(s, same)} of {len(s)} images their own caption is the "
      f"nearest of {s.shape[1]} different captions. A bar is the softmax "
      f"probability at scale {samples.scale:.3g}; the number is the cosine "
      "similarity. Images are evenly spaced among the samples, not selected.</p>"
      f'<div class="cards">{"".join(cards)}</div>'
  )


def images_of_captions(samples: Samples) -> str:
  """Shows captions with their nearest images."""
  queries = _distinct(samples)
  s = _similarities(samples).T[queries]
  same = _same(samples).T[queries]
  cards = []
  for row in _evenly(len(s)):
    items = "".join(
        f"<li{_right(same[row, i])}>{_image(samples, i, 96)}"
        f"<small>{_tick(same[row, i])}{s[row, i]:.3f}</small></li>"
        for i in _nearest(s[row])
    )
    caption = html.escape(samples.captions[queries[row]])
    cards.append(
        f'<div class="card query"><p>{caption}</p><ul>{items}</ul></div>'
    )
  return (
      f"<p>For {_first(s, same)} of {len(s)} captions the nearest of "
      f"{s.shape[1]} images is one of their own.</p>"
      f'<div class="cards">{"".join(cards)}</div>'
  )


def _match(
    caption: str,
    cosine: Number,
    probability: Number,
    right: Truth,
    name: str = "",
) -> str:
  """One line of a card: a caption, its similarity and its probability."""
  return (
      f'<li{_right(right, name)}><span>{_tick(right)}{html.escape(caption)}'
      f"</span><small>{cosine:.3f}</small>"
      f'<i style="width:{100 * probability:.1f}%"></i></li>'
  )


def _right(right: Truth, name: str = "") -> str:
  names = " ".join(filter(None, ("right" if right else "", name)))
  return f' class="{names}"' if names else ""


def _tick(right: Truth) -> str:
  # A sign besides the colour, for readers who cannot distinguish colours.
  return '<b title="the right one">\N{CHECK MARK}</b> ' if right else ""


def _image(samples: Samples, i: int, size: int) -> str:
  image = samples.images[i]
  pixels = ' class="pixels"' if max(image.shape[:2]) < 64 else ""
  caption = html.escape(samples.captions[i])
  return f'<img{pixels} src="{plots.png(image, size)}" alt="{caption}">'


def _similarities(samples: Samples) -> Float[np.ndarray, "i j"]:
  return samples.image_embeddings @ samples.text_embeddings.T


def _same(samples: Samples) -> Bool[np.ndarray, "i j"]:
  """Whether the caption of image i equals caption j."""
  captions = np.array(samples.captions, object)
  return captions[:, None] == captions[None, :]


def _distinct(samples: Samples) -> list[int]:
  """Index of the first occurrence of each different caption."""
  first: dict[str, int] = {}
  for i, caption in enumerate(samples.captions):
    first.setdefault(caption, i)
  return list(first.values())


def _evenly(count: int) -> list[int]:
  shown = min(count, _SHOWN)
  return [i * count // shown for i in range(shown)]


def _nearest(s: Float[np.ndarray, "m"]) -> list[int]:
  return np.argsort(-s, kind="stable")[:_NEAREST].tolist()


def _first(s: Float[np.ndarray, "i j"], same: Bool[np.ndarray, "i j"]) -> int:
  return int(same[np.arange(len(s)), s.argmax(1)].sum())


def _softmax(logits: Float[np.ndarray, "i j"]) -> Float[np.ndarray, "i j"]:
  weights = np.exp(logits - logits.max(1, keepdims=True))
  return weights / weights.sum(1, keepdims=True)
