"""Image-text retrieval over a whole dataset, in both directions."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from basic import types
from basic.data import class_prompts
from basic.ops import bootstrap, pair_ranks

_FEW = 10  # images that share a caption, on average, before that is said
_log = logging.getLogger(__name__)


def retrieval(
    *,
    at: tuple[int, ...] = (1, 5, 10),
    image: str = "image",
    captions: str = "captions",
    text: str = "text",
    languages: str = "caption_languages",
    most_captions: int | None = None,
    block: int | None = None,
    batch_size: int = 64,
) -> types.Evaluator:
  """Measures how high the captions of each image rank, and the image of each caption.

  With s = x @ y.T the cosines of images i and captions j, own(i) the captions of
  image i, r_ij the rank from 0 of caption j among all captions by s_i., and q_j
  that of the image of caption j among all images by s_.j,

      image to text @k    mean over i of [r_ij < k for some j in own(i)]
      image to text ranks mean and median over i of 1 + min over own(i) of r_ij
      image to text nDCG  mean over i of
                          sum over j in own(i) of       1 / log2(2 + r_ij)
                          divided by sum over p < |own(i)| of  1 / log2(2 + p)
      text to image       the same over j, where the only match has the rank q_j

  Only the image's own captions are hits: the same text of another image is a miss,
  as in the usual protocol for Flickr30K and COCO, and relevance is 1 or 0. Ties
  are ranked in the order of the batches. An embedding that is NaN is a miss, and
  its nDCG is 0. Scores are computed in tiles, on all devices of the mesh; see
  `basic.ops.pair_ranks`.

  Where captions have a language, the same is measured by language: the captions
  of that language alone are queries and candidates, among all images (the
  protocol of Crossmodal-3600).

  Args:
    at: each k of recall@k. One above the number of items is left out.
    image: the view of the images, and the field of a batch that it reads.
    captions: the field of the captions, int [b k t] with a constant t. A
      caption of zeros is padding.
    text: the view of the captions, and the field of a batch that it reads.
    languages: the field with the language of each caption, text [b k], "" where
      it has none. Metrics by language are left out if batches have no such field.
    most_captions: only so many captions of each image count, the first ones;
      the protocol for COCO takes 5. None: all.
    block: rows of a tile of scores, on both sides. None: 1,024 on CPUs, 4,096
      elsewhere.
    batch_size: rows of every batch of captions; id 0 fills the last one.

  Returns:
    An evaluator over batches with `image` and `captions`. Metrics:
    "/image_to_text@1", "/text_to_image@1", ... as fractions;
    "/image_to_text_median_rank", "_mean_rank", where 1 is the best, and "_ndcg",
    0 to 1, and those of "/text_to_image"; "/count", the images with captions;
    "/captions", their captions; "/distractors", the images without captions,
    which are candidates but not queries. By language "/image_to_text/de@1",
    "/text_to_image/de_ndcg", "/captions/de" and so on.

  Raises:
    ValueError: if a k, `most_captions`, `block` or `batch_size` is below 1; when
      called, if there is no caption, a field is missing, `captions` is not
      [b k t], or `languages` is not [b k].

  References:
    Karpathy and Fei-Fei, Deep Visual-Semantic Alignments for Generating Image
    Descriptions, 2015, section 4.1. https://arxiv.org/abs/1412.2306
    Jarvelin and Kekalainen, Cumulated gain-based evaluation of IR techniques,
    2002. https://doi.org/10.1145/582415.582418
    Thapliyal et al., Crossmodal-3600, 2022, section 5.
    https://arxiv.org/abs/2205.12522

  Example:
    >>> import jax.numpy as jnp
    >>> def encode(batch):  # towers that see and read one number each
    ...   return types.Embedded({
    ...       view: types.Features(jnp.eye(4)[leaf.reshape(len(leaf))])
    ...       for view, leaf in batch.items()}, {})
    >>> batch = {"image": np.array([1, 2]), "captions": np.array([[[1]], [[3]]])}
    >>> metrics = retrieval(at=(1,))(encode, [(batch, np.array([True, True]))])
    >>> metrics["/image_to_text@1"], metrics["/text_to_image@1"]
    (0.5, 0.5)
  """
  _check(at, most_captions, block, batch_size)

  def evaluate(
      encode: Callable[[types.Batch], types.Embedded],
      batches: Iterable[tuple[types.Batch, Any]],
  ) -> types.Metrics:
    images, found, seen = [], [], 0
    for batch, mask in batches:
      kept = np.asarray(mask, bool)
      tokens = _captions(batch, image, captions)[kept, :most_captions]
      spoken = _languages(batch, languages, captions)[kept, :most_captions]
      x = class_prompts.embed(encode, image, batch[image])
      images.append(np.asarray(x)[kept])
      row, column = np.nonzero(tokens.any(axis=-1))
      found.append((tokens[row, column], spoken[row, column], seen + row))
      seen += len(tokens)
    if not sum(len(owner) for *_, owner in found):
      raise ValueError(
          f"retrieval found {seen} images and no caption: give the "
          f"eval a source whose {captions!r} hold ids other than 0."
      )
    tokens, spoken, owner = map(np.concatenate, zip(*found, strict=True))
    _warn_of_equal(tokens)
    x = np.concatenate(images)
    images.clear()
    y = _embed_texts(encode, text, tokens, batch_size)
    names, kind = np.unique(spoken, return_inverse=True)
    ranks = pair_ranks.pair_ranks(
        x, y, owner, kind=kind if any(names) else None, block=block
    )
    return _metrics(ranks, owner, names, kind, at, seen)

  return evaluate


def _warn_of_equal(tokens):
  """Warns where captions are those of classes: few, and each of many images."""
  different = len(np.unique(tokens, axis=0))
  if _FEW * different < len(tokens):
    _log.warning(
        "retrieval found %d captions, of which only %d are different: an image's "
        "own caption alone is a hit, so at most %.2g%% of the captions can find "
        "their image first. Where captions are names of classes, give the "
        "evaluation name='zeroshot'.",
        len(tokens), different, 100 * different / len(tokens),
    )


def _embed_texts(encode, text, tokens, batch_size):
  """Unit embeddings of captions, in batches of one shape.

  Equal captions are encoded once: in two batches they might be rounded
  differently, and would no longer tie.
  """
  tokens, inverse = np.unique(tokens, axis=0, return_inverse=True)
  embedded = []
  for start in range(0, len(tokens), batch_size):
    chunk = tokens[start : start + batch_size]
    padded = np.pad(chunk, ((0, batch_size - len(chunk)), (0, 0)))
    y = class_prompts.embed(encode, text, padded)
    embedded.append(np.asarray(y)[: len(chunk)])
  return np.concatenate(embedded)[inverse.reshape(-1)]


def _metrics(ranks, owner, names, kind, at, images):
  """All metrics, of all captions and of those of each language.

  Those of all captions can be resampled: images are drawn, with their captions, as
  queries among the same items.
  """
  # Captions of an image stand together, from the first to before the next first.
  asking, first, count = np.unique(owner, return_index=True, return_counts=True)

  def again(rows):
    many = count[rows]
    query = np.repeat(np.arange(len(rows)), many)
    before = np.cumsum(many) - many
    chosen = np.repeat(first[rows] - before, many) + np.arange(len(query))
    return {
        **_direction(
            "/image_to_text", ranks.of_item[chosen], query, at, len(owner)
        ),
        **_direction(
            "/text_to_image", ranks.of_query[chosen], np.arange(len(query)), at,
            images,
        ),
    }

  metrics = {
      "/count": float(len(asking)),
      "/captions": float(len(owner)),
      "/distractors": float(images - len(asking)),
  }
  for number, name in enumerate(names):
    chosen = kind == number
    spoken = int(np.count_nonzero(chosen))
    if name:
      metrics |= {
          **_direction(
              f"/image_to_text/{name}", ranks.of_item_in_kind[chosen],
              owner[chosen], at, spoken,
          ),
          **_direction(
              f"/text_to_image/{name}", ranks.of_query[chosen],
              np.arange(spoken), at, images,
          ),
          f"/captions/{name}": float(spoken),
      }
  return bootstrap.Measured(again, {"captions": count}, metrics)


def _direction(name, ranks, query, at, items):
  """Metrics of queries, from the ranks of all matches of each.

  Args:
    name: prefix of the metrics.
    ranks: from 0, of each match [m].
    query: the query of each match [m].
    at: each k of recall@k.
    items: how many there are to be found; a match with this rank is none.
  """
  _, query = np.unique(query, return_inverse=True)
  best = np.full(query.max() + 1, items)
  np.minimum.at(best, query, ranks)
  gain = np.where(ranks < items, 1 / np.log2(2.0 + ranks), 0.0)
  discounts = np.cumsum(1 / np.log2(2.0 + np.arange(np.bincount(query).max())))
  ideal = discounts[np.bincount(query) - 1]
  return {
      **{f"{name}@{k}": float(np.mean(best < k)) for k in at if k <= items},
      f"{name}_median_rank": float(np.median(best + 1)),
      f"{name}_mean_rank": float(np.mean(best + 1)),
      f"{name}_ndcg": float(np.mean(np.bincount(query, gain) / ideal)),
  }


def _captions(batch, image, captions):
  """The captions of a batch, int32 [b k t]."""
  missing = {image, captions} - set(batch)
  if missing:
    raise ValueError(
        f"retrieval found the fields {sorted(batch)} and needs "
        f"{sorted(missing)} too: give the eval a source with captioned images."
    )
  texts = np.asarray(batch[captions])
  if texts.ndim != 3:
    raise ValueError(
        f"retrieval found {captions!r} of shape {list(texts.shape)} and needs "
        "[b k t]: k captions of t ids for each image, also where k is 1."
    )
  return texts.astype(np.int32)


def _languages(batch, languages, captions):
  """The language of each caption, [b k]; "" if batches have none."""
  shape = np.shape(batch[captions])[:2]
  spoken = np.asarray(batch.get(languages, np.full(shape, "")))
  if spoken.shape != shape or spoken.dtype.kind != "U":
    raise ValueError(
        f"retrieval found {languages!r} {spoken.dtype}{list(spoken.shape)} and "
        f"needs text {list(shape)}: the language of each caption, '' for none."
    )
  return spoken


def _check(at, most_captions, block, batch_size):
  """Raises ValueError for settings that cannot work."""
  given = [each for each in (most_captions, block) if each is not None]
  if min(batch_size, *at, *given) < 1:
    raise ValueError(
        f"retrieval found at={tuple(at)}, most_captions={most_captions}, "
        f"block={block} and batch_size={batch_size} and needs whole numbers "
        "from 1."
    )
