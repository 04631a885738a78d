"""Shows the pairs that the towers get most wrong."""

import numpy as np
from jaxtyping import Bool, Float

from basic.pages import markup, samples

Samples = samples.Samples

_SHOWN = 9


def margins(
    s: Float[np.ndarray, "i j"], same: Bool[np.ndarray, "i j"]
) -> tuple[Float[np.ndarray, "i"], np.ndarray]:
  """How far each image's own caption is ahead of the best wrong one.

      m_i = s_ii - max over j with another caption of s_ij

  Args:
    s: cosine similarities; s_ii is that of image i and its own caption.
    same: whether caption j is that of image i.

  Returns:
    (m [i], infinite without a wrong caption; the best wrong caption int [i]).
  """
  wrong = np.where(same, -np.inf, s)
  best = wrong.argmax(1)
  return np.diagonal(s) - wrong[np.arange(len(s)), best], best


def false_friends(
    s: Float[np.ndarray, "i j"], same: Bool[np.ndarray, "i j"], most: int
) -> list[tuple[int, int]]:
  """The wrong pairs of largest similarity, each image and caption once.

  Args:
    s: cosine similarities of images and captions.
    same: whether caption j is that of image i.
    most: number of pairs.

  Returns:
    (i, j), the most similar first; ties in the order of i, then j.
  """
  wrong = np.where(same, -np.inf, s)
  found: list[tuple[int, int]] = []
  while len(found) < most:
    i, j = map(int, np.unravel_index(wrong.argmax(), wrong.shape))
    if not np.isfinite(wrong[i, j]):
      break
    found.append((i, j))
    wrong[i] = -np.inf
    wrong[:, same[j]] = -np.inf  # that caption, wherever it stands
  return found


def positives(shown: Samples) -> str:
  """Shows the images whose own caption is furthest behind a wrong one."""
  s, same = samples.similarities(shown), samples.same(shown)
  margin, best = margins(s, same)
  if not np.isfinite(margin).any():
    return "<p>All captions are equal, so none can be wrong.</p>"
  behind = int((margin < 0).sum())
  lowest = np.argsort(margin, kind="stable")[:_SHOWN].tolist()
  cards = "".join(
      _card(shown, i, [("right", i, float(s[i, i])), ("", j, float(s[i, j]))])
      for i, j in zip(lowest, best[lowest].tolist(), strict=True)
  )
  return (
      f"<p>The margin of an image is the similarity of its own caption less that "
      f"of the best wrong one; it is below 0 for {behind} of {len(s)} images. "
      "These have the lowest: their own caption, and the wrong one.</p>"
      f'<div class="cards">{cards}</div>'
  )


def negatives(shown: Samples) -> str:
  """Shows the most similar pairs that do not belong together."""
  s, same = samples.similarities(shown), samples.same(shown)
  pairs = false_friends(s, same, _SHOWN)
  if not pairs:
    return "<p>All captions are equal, so no pair is wrong.</p>"
  cards = "".join(
      _card(shown, i, [("", j, float(s[i, j])), ("right", i, float(s[i, i]))])
      for i, j in pairs
  )
  return (
      "<p>The most similar images and captions that do not belong together, each "
      "once; below them, the image's own caption. Some may be right after all: "
      "captions that differ in letters only are different here.</p>"
      f'<div class="cards">{cards}</div>'
  )


def _card(
    shown: Samples, i: int, lines: list[tuple[str, int, float]]
) -> str:
  """An image with (class, caption, similarity) of each line."""
  items = "".join(
      f'<li class="{kind}"><span>{samples.tick(bool(kind))}'
      f"{markup.text(shown.captions[j])}</span><small>{cosine:.3f}</small></li>"
      for kind, j, cosine in lines
  )
  return (
      f'<div class="card">{samples.image(shown, i, 128)}<ul>{items}</ul></div>'
  )
