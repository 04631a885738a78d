"""Chooses the examples of a crawl that are worth training on."""

import functools
import hashlib
from collections.abc import Mapping

from basic import files, types
from basic.preparation import _local, _parts, _rules

_NONE: Mapping[str, types.Source] = {}


def filter(
    *,
    source: types.Source,
    out: str,
    evaluation: Mapping[str, types.Source] = _NONE,
    shorter_side: int = 200,
    aspect_ratio: float | None = 3.0,
    image_texts: int | None = 1_000,
    text_images: int | None = 10,
    fewest_words: int = 3,
    most_words: int | None = 20,
    common_tokens: int | None = 100_000_000,
    distance: int = 6,
    part: int = 5_000,
    workers: int | None = None,
    runner: tuple[str, ...] = (),
) -> types.Counts:
  """Keeps the examples that ALIGN's rules keep, and none of evaluation sets.

  Nothing is copied: the numbers of the kept examples, and of their kept captions,
  are written to a folder, which the source `subset` reads. Every image is decoded
  once; the work is done in parts, and the same command goes on after it was
  stopped. With other rules it only decides again.

  An image is dropped if it is too small, too long, on too many pages, or in an
  evaluation set. Of the others, captions are dropped that too many different
  images have, that contain a rare word or pair of words, or that are too short or
  too long; an image of which no caption is left is dropped too. Captions are
  compared case-folded; words are what spaces separate. An image of the same file,
  or of the same pixels where there is no file, is the same image.

  Near-duplicates of evaluation images are found by perceptual hash, also where
  they are compressed again, resized, or cropped by up to 10%. Pictures of almost
  one colour have no such hash and are found only as the same file; drawings of few
  shapes resemble each other, so less `distance` suits them.

  ALIGN's classifier of pornographic images is not published and has no
  counterpart here.

  Args:
    source: settings of the source: --source.name=tar --source.shards=...
    out: folder for the results, local or a URL such as gs://bucket/folder. It
      gets examples.npy, captions.npy if captions were dropped, reasons.npy (one
      code an example) and report.json.
    evaluation: sources by label whose images must not be trained on:
      --evaluation.imagenet.name=tfds --evaluation.imagenet.split=...
    shorter_side: images whose shorter side has no more pixels are dropped.
    aspect_ratio: so are those whose longer side is at least this many times the
      shorter one. None: any.
    image_texts: images with more different captions are dropped. None: any.
    text_images: captions of more different images are dropped. None: any.
    fewest_words: captions with fewer words are dropped.
    most_words: captions with more words are dropped. None: any.
    common_tokens: captions with a word, or two words in a row, that is not among
      so many most frequent ones of the whole source are dropped. None: any.
    distance: bits of 64 in which the perceptual hash of a near-duplicate may
      differ from that of an evaluation image.
    part: number of examples of a part.
    workers: processes on this machine; None: as many as it has cores.
    runner: flags of Apache Beam, which take the place of these processes. On the
      command line they follow a `--`: `-- --runner=DataflowRunner --region=...`.

  Returns:
    Counts: "examples"; "unreadable/..." and "image/...", the images dropped by the
    first rule that each breaks; "captions" of the images that pass, and
    "caption/...", those dropped; "image/no caption left"; "kept", "kept captions".

  Raises:
    ValueError: if a limit is out of its range, `out` holds work on other data or
      is no folder that can be written, or the source is a mixture.
    ImportError: if there are flags for Beam, and it is not installed.

  References:
    Jia et al., Scaling Up Visual and Vision-Language Representation Learning With
    Noisy Text Supervision (ALIGN), 2021, section 3. https://arxiv.org/abs/2102.05918
  """
  rules = _rules.Rules(
      shorter_side, aspect_ratio, image_texts, text_images, fewest_words,
      most_words, common_tokens, distance,
  )
  _check(rules, part, workers, source)
  out = str(files.folder("--out", out)) if "://" not in out else out.rstrip("/")
  run = _runner(runner, workers)
  parts = _parts.Parts(source, f"{out}/features", part)
  _parts.begin(parts, "source")
  hashes, unhashed = _parts.evaluation({
      label: _parts.Parts(each, f"{out}/evaluation/{label}", part)
      for label, each in evaluation.items()
  }, run)
  run.read(
      "read", functools.partial(_parts.store_features, parts), _parts.missing(parts)
  )
  tables = f"{out}/tables/{_digest(source, rules, hashes)}"
  for name, table in hashes._asdict().items():
    _rules.store(tables, name, table)
  run.tables([parts.path(number) for number in parts.numbers()], rules, tables)
  judge = _parts.Judge(parts, f"{out}/decided", rules, tables)
  run.decide(judge, parts.numbers())
  return {**_parts.collect(judge, out, {"evaluation": unhashed}), **unhashed}


def _digest(
    source: types.Source, rules: _rules.Rules, hashes: _rules.Evaluation
) -> str:
  """Hashes all that the tables depend on."""
  found = hashlib.sha256(repr((
      len(source), getattr(source, "fingerprint", None), rules
  )).encode())
  for table in hashes:
    found.update(table.tobytes())
  return found.hexdigest()[:16]


def _runner(flags: tuple[str, ...], workers: int | None) -> _parts.Runner:
  if not flags:
    return _local.Local(workers)
  try:
    from basic.preparation import _beam
  except ImportError as error:
    raise ImportError(
        f"the flags {flags} are for Apache Beam, which cannot be imported: {error}. "
        "Install the extra `prepare`, or leave out `--` and what follows it."
    ) from error
  return _beam.Beam(flags)


def _check(
    rules: _rules.Rules, part: int, workers: int | None, source: types.Source
) -> None:
  """Raises ValueError for a source without a filter, or a limit out of range."""
  if not len(source):
    raise ValueError("the source has no examples; check its name and split.")
  if hasattr(source, "order"):
    raise ValueError(
        "the source draws its examples in an order of its own, as a mixture does, "
        "which the source subset cannot keep; filter its parts, and mix the subsets."
    )
  least = {
      "shorter_side": 0, "aspect_ratio": 1, "image_texts": 1, "text_images": 1,
      "fewest_words": 0, "most_words": 1, "common_tokens": 1, "distance": 0,
  }
  for name, value in {**rules._asdict(), "part": part, "workers": workers}.items():
    lowest = least.get(name, 1)
    if value is not None and not value >= lowest:
      raise ValueError(f"filter.{name} is {value}; expected {lowest} or more.")
  if rules.distance > 32:
    raise ValueError(
        f"filter.distance is {rules.distance}; expected 0 to 32 bits: the hashes of "
        "unrelated pictures differ in 32 of 64."
    )
  if rules.most_words is not None and rules.most_words < rules.fewest_words:
    raise ValueError(
        f"filter.most_words is {rules.most_words}, fewer than fewest_words, which "
        f"is {rules.fewest_words}; no caption would be left."
    )
