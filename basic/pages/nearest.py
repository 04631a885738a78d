"""Shows held-out examples with their nearest captions and images."""

import numpy as np
from jaxtyping import Bool, Float

from basic.pages import markup, samples

Samples = samples.Samples
Number = float | np.floating
Truth = bool | np.bool_

_SHOWN = 12  # examples in each gallery
_NEAREST = 3  # nearest neighbours shown for each


def captions_of_images(shown: Samples) -> str:
  """Shows images with their nearest captions."""
  candidates = samples.distinct(shown)
  s = samples.similarities(shown)[:, candidates]
  same = samples.same(shown)[:, candidates]
  probability = _softmax(shown.scale * s)
  captions = [shown.captions[j] for j in candidates]
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
      caption = f"{rank}. {shown.captions[i]}"
      items.append(_match(caption, s[i, own], probability[i, own], True, "own"))
    cards.append(
        f'<div class="card">{samples.image(shown, i, 128)}'
        f"<ul>{''.join(items)}</ul></div>"
    )
  return (
      f"<p>For {_first(s, same)} of {len(s)} images their own caption is the "
      f"nearest of {s.shape[1]} different captions. A bar is the softmax "
      f"probability at scale {shown.scale:.3g}; the number is the cosine "
      "similarity. Images are evenly spaced among the samples, not selected.</p>"
      f'<div class="cards">{"".join(cards)}</div>'
  )


def images_of_captions(shown: Samples) -> str:
  """Shows captions with their nearest images."""
  queries = samples.distinct(shown)
  s = samples.similarities(shown).T[queries]
  same = samples.same(shown).T[queries]
  cards = []
  for row in _evenly(len(s)):
    items = "".join(
        samples.match(i, shown, s[row, i], is_right=same[row, i])
        for i in _nearest(s[row])
    )
    caption = markup.text(shown.captions[queries[row]])
    cards.append(
        f'<div class="card query"><p>{caption}</p><ul>{items}</ul></div>'
    )
  return (
      f"<p>For {_first(s, same)} of {len(s)} captions the nearest of "
      f"{s.shape[1]} images is one of their own.</p>"
      f'<div class="cards">{"".join(cards)}</div>'
  )


def images_of_images(shown: Samples) -> str:
  """Shows images with the images that are nearest to them."""
  if len(shown.images) < 2:
    return "<p>There is only one image.</p>"
  s = shown.image_embeddings @ shown.image_embeddings.T
  np.fill_diagonal(s, -np.inf)
  same, named = samples.same(shown), any(shown.captions)
  cards = []
  for i in _evenly(len(s)):
    items = "".join(
        samples.match(
            j, shown, s[i, j], is_right=named and same[i, j],
            says=shown.captions[j],
        )
        for j in _nearest(s[i])[: len(s) - 1]
    )
    cards.append(
        f'<div class="card query"><div class="asked">'
        f"{samples.image(shown, i, 96)}<p>{markup.text(shown.captions[i], 90)}</p>"
        f"</div><ul>{items}</ul></div>"
    )
  return (
      "<p>The first image, and below it those whose embeddings have the largest "
      "cosine similarity to its own. What the image tower takes for alike, "
      "without any text.</p>"
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
  names = " ".join(filter(None, ("right" if right else "", name)))
  kind = f' class="{names}"' if names else ""
  return (
      f"<li{kind}><span>{samples.tick(right)}{markup.text(caption)}"
      f"</span><small>{cosine:.3f}</small>"
      f'<i class="{markup.bar(probability)}"></i></li>'
  )


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
