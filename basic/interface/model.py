"""A trained model that embeds, compares, classifies and searches."""

import contextlib
import functools
import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from basic import paths, types
from basic.data import pictures
from basic.experiment import schema, towers
from basic.interface import collection, inputs
from basic.ops import normalize


class Classes(NamedTuple):
  """What `classify` finds for n images among c names.

  Attributes:
    best: the most probable name of each image.
    probabilities: float32 [n c], in the order of `names`; each row sums to 1.
    names: as they were given.
  """

  best: list[str]
  probabilities: Float[np.ndarray, "n c"]
  names: tuple[str, ...]

  def __repr__(self) -> str:
    lines = []
    for n, row in enumerate(self.probabilities):
      order = np.argsort(-row, kind="stable")[:5]
      shown = ", ".join(f"{self.names[i]} {row[i]:.3f}" for i in order)
      lines.append(f"image {n}: {shown}")
    return "\n".join(lines)


class Model:
  """Trained towers, for images and texts in memory or in files.

  Attributes:
    towers: with parameters, configuration and functions (`experiment.towers`).

  Example:
    model = basic.load("runs/emoji")
    model.classify("cat.png", ["a cat", "a dog"]).best
    model.search("a red fruit", model.index("pictures"))
  """

  def __init__(self, trained: towers.Towers, batch_size: int = 64):
    """Makes the towers usable.

    Args:
      trained: from `towers.named`.
      batch_size: rows that are encoded at a time; rounded up to a multiple of
        the devices. Fewer inputs are padded to it, so that a tower is compiled
        once; a single one has a program of its own.

    Raises:
      ValueError: if `batch_size` is below 1.
    """
    if batch_size < 1:
      raise ValueError(f"batch_size is {batch_size}; it takes 1 or more.")
    self.towers = trained
    self._least = trained.layout.mesh.size
    self._rows = -(-batch_size // self._least) * self._least

  def embed_images(self, images: Any) -> Float[np.ndarray, "n d"]:
    """Embeds images, prepared as evaluations prepare them.

    Args:
      images: one image or any number of them, each the path of a file, the
        content of one as bytes, a PIL image, or an array uint8 [h w], [h w 1],
        [h w 3] or [h w 4]; an array [n h w c] is n images. Of an iterable, one
        batch at a time is in memory.

    Returns:
      Unit vectors, float32; one row for one image.

    Raises:
      FileNotFoundError: if a path is that of no file.
      ValueError: if there is no image, one cannot be read (`types.Unreadable`),
        or the model has no image tower.

    Example:
      z = model.embed_images(["cat.jpg", "dog.jpg"])
    """
    rows = self._images.rows(pictures.several(images))
    return self._embedded("image", rows, "images")

  def embed_texts(self, texts: Any) -> Float[np.ndarray, "n d"]:
    """Embeds texts.

    Args:
      texts: one str or an iterable of any number of them. What is longer than
        the text tower reads is cut.

    Returns:
      Unit vectors, float32; one row for one text.

    Raises:
      ValueError: if there is no text, one is blank or no text, or the model has
        no text tower.

    Example:
      z = model.embed_texts(["a cat", "a dog"])
    """
    self._view("text")
    return self._embedded("text", inputs.ids(self.towers, texts), "texts")

  def similarity(self, images: Any, texts: Any) -> Float[np.ndarray, "n m"]:
    """The cosine of every image with every text, from -1 to 1.

    Args:
      images: as `embed_images` takes them.
      texts: as `embed_texts` takes them.

    Raises:
      ValueError: as these do.

    Example:
      model.similarity(["cat.jpg", "dog.jpg"], ["a cat", "a dog"]).round(2)
    """
    return self.embed_images(images) @ self.embed_texts(texts).T

  def classify(
      self,
      images: Any,
      names: Sequence[str],
      templates: Sequence[str] = ("a photo of a {}.",),
  ) -> Classes:
    """Says which of the names fits an image best, and how probable each is.

        w_c = unit(sum over templates p of y_cp),    p_i = softmax(scale <x_i, w>)

    with y_cp the embedding of template p filled with name c, and the scale of the
    logits in training.

    Args:
      images: as `embed_images` takes them.
      names: of the classes, two or more.
      templates: each with "{}", where a name goes.

    Returns:
      The best name of each image, and the probabilities of all.

    Raises:
      ValueError: if there are fewer than two names, two are equal, a template has
        no "{}", the model's objective has no logits of pairs, or as
        `embed_images`.

    Example:
      model.classify("cat.jpg", ["cat", "dog"]).best  # ["cat"]
    """
    names = tuple(names) if not isinstance(names, str) else (names,)
    templates = (templates,) if isinstance(templates, str) else tuple(templates)
    _check_classes(names, templates)
    scale = self._scale()
    y = self.embed_texts(t.replace("{}", n) for n in names for t in templates)
    w = _unit(y.reshape(len(names), len(templates), -1).sum(1))
    logits = scale * self.embed_images(images) @ w.T
    probabilities = np.asarray(jax.nn.softmax(logits), np.float32)
    best = [names[n] for n in probabilities.argmax(1)]
    return Classes(best, probabilities, names)

  def index(
      self, source: Any, *, view: str = "image", cache: str | None = None
  ) -> collection.Index:
    """Embeds a collection, to be searched.

    Args:
      source: a folder, with pictures at any depth; the settings of a source, such
        as dict(name="tar", shards="data/*.tar"); or images as `embed_images`
        takes them. Embeddings of the first two are kept on disk, so that they are
        computed once for a model.
      view: what of the examples is searched: "image", or "text".
      cache: folder where embeddings are kept; None: $XDG_CACHE_HOME/basic.

    Raises:
      FileNotFoundError: if there is no such folder.
      ValueError: if nothing can be read, or the examples have no such view.

    Example:
      index = model.index("pictures")
    """
    return collection.index(self, source, view=view, cache=cache)

  def search(self, query: Any, among: Any, k: int = 10) -> collection.Found:
    """Finds the k nearest of a collection, for words or for images.

    Args:
      query: a text; an image as a `pathlib.Path`, bytes, a PIL image or an array;
        a list of texts or of images; or embeddings float [n d].
      among: a collection from `index`, or embeddings [m d].
      k: how many to find; no more than there are.

    Returns:
      The nearest of each query, best first.

    Raises:
      ValueError: if `k` is below 1, or as `embed_images` and `embed_texts`.

    Example:
      found = model.search("a red fruit", model.index("pictures"), k=5)
      found.names[0], found.scores[0]
    """
    return collection.search(self._queries(query), among, k)

  def _queries(self, query: Any) -> np.ndarray:
    """The embeddings of queries."""
    if isinstance(query, np.ndarray | jax.Array) and query.dtype.kind == "f":
      return _unit(np.atleast_2d(np.asarray(query, np.float32)))
    several = [query] if isinstance(query, str) else query
    if isinstance(several, list | tuple) and several and all(
        isinstance(each, str) for each in several
    ):
      if file := next(filter(pictures.is_file, several), None):
        raise ValueError(
            f"the query {file!r} is a file; to search by a picture, give "
            f"pathlib.Path({file!r})."
        )
      return self.embed_texts(several)
    return self.embed_images(query)

  @functools.cached_property
  def _images(self) -> inputs.Images:
    return inputs.Images.of(self.towers, self._view("image").field)

  def reading(
      self, source: Mapping[str, Any]
  ) -> tuple[towers.Towers, dict[str, Any]]:
    """The towers and a source's settings, so that they read its images.

    Args:
      source: `name` of a source and its settings.

    Returns:
      The towers, which resize images if those of training had one size and were
      not resized; and the settings, with the channels that the tower takes.
    """
    if not any(v.tower == "image" for v in self.towers.model.encode.views.values()):
      return self.towers, dict(source)
    config = {**self.towers.config, "augment": self._images.settings}
    function = schema.plugin("sources", str(source.get("name")))
    channels = self._images.shape[2]
    own = {"channels": channels} if schema.takes(function, "channels") else {}
    return self.towers._replace(config=config), {**own, **source}

  def _view(self, tower: str) -> types.View:
    """A view of a tower; where it has several, that of its own name."""
    views = self.towers.model.encode.views
    found = [view for view in views.values() if view.tower == tower]
    if not found:
      raise ValueError(
          f"{self.towers.origin} has no {tower} tower; its views are "
          f"{sorted(views)}."
      )
    return views[tower] if tower in views else found[0]

  def _embedded(self, tower, rows: Iterable[np.ndarray], what) -> np.ndarray:
    """Unit embeddings of rows, a batch of equal shape at a time."""
    field, encode = self._view(tower).field, self.towers.encoder.encode
    parts, rows = [], iter(rows)
    while chunk := list(itertools.islice(rows, self._rows)):
      alone = not parts and len(chunk) <= self._least
      size = self._least if alone else self._rows
      batch = np.stack(chunk + [chunk[-1]] * (size - len(chunk)))
      with self.towers.layout.context():
        z = encode(self.towers.params, {field: batch}).views[field].pooled
      parts.append(np.asarray(z, np.float32)[: len(chunk)])
    if not parts:
      raise ValueError(f"there are no {what}; give one or more.")
    return _unit(np.concatenate(parts))

  def _scale(self) -> float:
    """The scale of the logits in training."""
    of_params = self.towers.objective.logits
    if of_params is None:
      raise ValueError(
          f"the objective {self.towers.config['objective']['name']!r} gives no "
          "logits of pairs, so there are no probabilities; use `similarity`."
      )
    return float(of_params(self.towers.params["objective"]).scale)

  def __repr__(self) -> str:
    config, params = self.towers.config, self.towers.params
    lines = [f"Model of {self.towers.origin}"]
    for tower in ("image", "text"):
      if config[tower] is None:
        continue
      named = config[tower]
      leaves = paths.flatten(params[tower]).values()
      facts = [f"{tower}: {named['name']}"]
      facts += [f"{k} {named[k]}" for k in ("width", "depth") if k in named]
      lines.append(", ".join([*facts, f"{sum(x.size for x in leaves):,} parameters"]))
    width = config["projection"]["width"]
    return "\n  ".join([*lines, *([f"embeddings: {width} wide"] if width else [])])


def load(
    where: str | os.PathLike,
    *,
    step: int | None = None,
    batch_size: int = 64,
    **weights: Any,
) -> Model:
  """Opens a trained model: a run of yours, or weights of another project.

  Neither the data nor the optimizer of a run is opened, except that images of a
  run without `augment.size` have the size that its data has: the first of them is
  then read when images are embedded.

  Args:
    where: the folder of a run, "runs/x"; or a format of weights and a path,
      "hf_clip:DIR", "open_clip:model.safetensors".
    step: of a run, the checkpoint; None: the newest.
    batch_size: rows that are encoded at a time.
    **weights: of weights, `tokenizer`, the file of a vocabulary, for those that
      come without one, and `dtype` to compute in, "float32" or "bfloat16".

  Returns:
    A model, on all devices here.

  Raises:
    FileNotFoundError: if there is neither such a run nor such weights.
    ValueError: if there is no such format, or files are damaged.

  Example:
    model = basic.load("runs/emoji")
    model = basic.load("hf_clip:clip-vit-base-patch32", dtype="bfloat16")
  """
  with _quietly():
    if step is not None:
      return Model(towers.of_run(where, step), batch_size)
    if weights:
      kind, _, path = os.fspath(where).partition(":")
      return Model(towers.of_weights(kind, path, **weights), batch_size)
    return Model(towers.named(where), batch_size)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
  """Leaves out that Orbax opens a checkpoint to be read, which it warns of."""

  def keep(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname or record.levelno > logging.WARNING

  log = logging.getLogger("absl")
  log.addFilter(keep)
  try:
    yield
  finally:
    log.removeFilter(keep)


def _unit(z: np.ndarray) -> np.ndarray:
  return np.array(normalize.unit(jnp.asarray(z)))  # A copy, which can be changed.


def _check_classes(names: Sequence[Any], templates: Sequence[str]) -> None:
  """Refuses names and templates that cannot work."""
  if len(names) < 2 or len(set(names)) < len(names):
    raise ValueError(
        f"found the names {list(names)!r:.200}; expected two or more, all different."
    )
  for n, name in enumerate(names):
    if not isinstance(name, str) or not name.strip():
      raise ValueError(f"names[{n}] is {name!r:.80}; expected words.")
  for template in templates or ("",):
    if "{}" not in template:
      raise ValueError(
          f"found the template {template!r} without '{{}}'; say where a name "
          "goes, as in 'a photo of a {}.'"
      )
