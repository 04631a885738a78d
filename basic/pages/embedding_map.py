"""A map of images and captions in two dimensions."""

import numpy as np
from jaxtyping import Float

from basic.pages import markup, plots, samples

Samples = samples.Samples

_WIDTH, _HEIGHT, _BORDER = 1000, 560, 14
_JOINED = 200  # pairs that are joined by a line


def principal(
    z: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "2"]]:
  """Projects rows on their first two principal components.

      z - mean = U diag(s) V^T,    p = U_2 diag(s_2)

  The largest entry of each column of V is positive, so that the same rows give
  the same map.

  Args:
    z: rows, at least one.

  Returns:
    (p, the fraction of the variance along each of its axes); zeros where rows
    do not differ.

  References:
    Jolliffe, Principal Component Analysis, 2002, section 3.5.
  """
  centred = np.asarray(z, np.float64) - np.mean(z, axis=0, dtype=np.float64)
  u, s, v = np.linalg.svd(centred, full_matrices=False)
  signs = np.sign(v[np.arange(len(v)), np.abs(v).argmax(1)])
  p = np.zeros((len(z), 2))
  kept = min(2, len(s))
  p[:, :kept] = (u * s * signs)[:, :kept]
  part = np.zeros(2)
  total = np.square(s).sum()
  if total > 1e-12:
    part[:kept] = np.square(s[:kept]) / total
  return p, part


def gap(x: Float[np.ndarray, "i d"], y: Float[np.ndarray, "j d"]) -> float:
  """The distance between the mean of images and that of captions.

  Args:
    x: unit embeddings of images.
    y: unit embeddings of captions.

  Returns:
    |mean x - mean y|, from 0 to 2.

  References:
    Liang et al., Mind the Gap: Understanding the Modality Gap in Multi-modal
    Contrastive Representation Learning, 2022, section 4.2.
    https://arxiv.org/abs/2203.02053

  Example:
    >>> gap(np.array([[1.0, 0.0]]), np.array([[-1.0, 0.0]]))
    2.0
  """
  return float(np.linalg.norm(x.mean(0) - y.mean(0)))


def section(shown: Samples) -> str:
  """Draws images and captions in the plane in which they differ most."""
  x, y = shown.image_embeddings, shown.text_embeddings
  p, part = principal(x if y is None else np.concatenate([x, y]))
  place = _places(p)
  images, texts = place[: len(x)], place[len(x):]
  drawn = _lines(images, texts) + _dots(shown, images, "image", 0)
  names, facts = ["images"], []
  if y is not None:
    drawn += _dots(shown, texts, "caption", 1)
    drawn += _means(images, texts)
    names.append("captions")
    facts.append(("modality gap", f"{gap(x, y):.3f}"))
  facts.append(("of the variance is in this plane", f"{part.sum():.1%}"))
  about = "images and captions" if y is not None else "images"
  return (
      f'<figure class="map">{plots.legend(names)}'
      f'<svg role="img" aria-label="map of {about} on two principal components" '
      f'viewBox="0 0 {_WIDTH} {_HEIGHT}">{drawn}</svg>'
      f"{markup.facts(facts)}<figcaption>{_caption(y is not None)} Point at a dot "
      "to read its caption.</figcaption></figure>"
  )


def _caption(both: bool) -> str:
  if not both:
    return "The embeddings of images on their first two principal components."
  return (
      "The embeddings of both, on the first two principal components of all of "
      "them together; lines join images and their captions, rings are the two "
      "means. The modality gap is the distance between the means, before the "
      "projection: 0 if both fill the same space, at most 2."
  )


def _places(p: Float[np.ndarray, "n 2"]) -> np.ndarray:
  """Coordinates on the drawing; the same scale on both axes."""
  low, high = p.min(0), p.max(0)
  room = np.array([_WIDTH, _HEIGHT]) - 2 * _BORDER
  scale = float((room / np.maximum(high - low, 1e-9)).min())
  middle = (low + high) / 2
  # Upwards on the page is downwards in its coordinates.
  return np.array([_WIDTH, _HEIGHT]) / 2 + (p - middle) * scale * (1, -1)


def _lines(images: np.ndarray, texts: np.ndarray) -> str:
  joined = zip(images[:_JOINED], texts[:_JOINED], strict=False)
  paths = "".join(
      f"M{a:.0f} {b:.0f}L{c:.0f} {d:.0f}" for (a, b), (c, d) in joined
  )
  return f'<path d="{paths}" stroke="var(--muted)" stroke-opacity="0.16"/>'


def _dots(shown: Samples, places: np.ndarray, kind: str, series: int) -> str:
  return "".join(
      f'<circle cx="{a:.1f}" cy="{b:.1f}" r="5" fill="var(--series-{series})" '
      f'fill-opacity="0.75"><title>{kind}: {markup.text(caption, 120)}</title></circle>'
      for (a, b), caption in zip(places, shown.captions, strict=True)
  )


def _means(images: np.ndarray, texts: np.ndarray) -> str:
  (a, b), (c, d) = images.mean(0), texts.mean(0)
  line = (
      f'<path d="M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}" stroke="var(--ink)" '
      'stroke-width="2" stroke-dasharray="6 4"/>'
  )
  rings = "".join(
      f'<circle cx="{x:.1f}" cy="{y:.1f}" r="11" fill="var(--card)" '
      f'stroke="var(--series-{n})" stroke-width="5"><title>mean of all '
      f"{kind}</title></circle>"
      for n, (x, y, kind) in enumerate(((a, b, "images"), (c, d, "captions")))
  )
  return line + rings
