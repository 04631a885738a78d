"""Shows how similar held-out images and captions are: a histogram, a heat map."""

import numpy as np

from basic.pages import markup, plots, samples

Samples = samples.Samples

_HEAT_MAP = 24  # examples of the heat map; as many cells fit on a phone


def histogram(shown: Samples) -> str:
  """Draws histograms of cosine similarities, matched and unmatched pairs.

  A pair matches if its caption equals the image's own.
  """
  s = samples.similarities(shown)
  matched, unmatched = np.diagonal(s), s[~samples.same(shown)]
  facts = [("matched, mean", f"{matched.mean():.3f}")]
  if len(unmatched):
    below = np.searchsorted(np.sort(unmatched), matched) / len(unmatched)
    facts += [
        ("unmatched, mean", f"{unmatched.mean():.3f}"),
        ("matched above unmatched", f"{below.mean():.1%}"),  # the AUC
        ("scale", f"{shown.scale:.4g}"),
    ]
  picture = plots.histogram(
      {"matched pairs": matched, "unmatched pairs": unmatched},
      unit="cosine similarity",
  )
  return (
      f"<figure>{picture}{markup.facts(facts)}<figcaption>{len(matched):,} images "
      "with their own captions, and with all others. Each histogram has "
      "area 1.</figcaption></figure>"
  )


def heat_map(shown: Samples) -> str:
  """Draws similarities of images (rows) and captions (columns) as a table."""
  chosen = samples.distinct(shown)[:_HEAT_MAP]
  s = samples.similarities(shown)[np.ix_(chosen, chosen)]
  low, high = float(s.min()), float(s.max())
  captions = [markup.text(shown.captions[i], 60) for i in chosen]
  head = "".join(
      f'<th scope="col" title="{caption}"><span>{caption}</span></th>'
      for caption in captions
  )
  rows = []
  for row, i in enumerate(chosen):
    cells = "".join(
        f'<td class="{markup.level((s[row, column] - low) / max(high - low, 1e-9))}"'
        f' title="{caption}: {s[row, column]:.3f}"></td>'
        for column, caption in enumerate(captions)
    )
    image = samples.image(shown, i, 32)
    rows.append(f'<tr><th scope="row">{image}</th>{cells}</tr>')
  return (
      '<figure class="wide"><div class="scroll" tabindex="0"><table class="heat">'
      f"<thead><tr><td></td>{head}</tr></thead>"
      f"<tbody>{''.join(rows)}</tbody></table></div>"
      f'<div class="key"><span>{low:.2f}</span><i></i>'
      f"<span>{high:.2f}</span> cosine similarity</div>"
      "<figcaption>Each row is an image, each column a caption, in the same "
      "order, so matches are on the diagonal.</figcaption></figure>"
  )
