"""The shared types: what the parts of a contrastive training run exchange.

Contrastive pretraining is one equation in two lines,

    Z = encode(theta, batch)      row by row: row i depends on example i alone
    L = objective(phi, Z)         over all pairs: rows interact only through Z

and the types below are the two halves and what passes between them. An
objective never sees a pixel; an encoder never sees another row. Shape letters:
b batch, n tokens, t text length, d width, i image rows, j text rows,
h w c image, l layers.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
from jaxtyping import Array, Bool, Float, Key

# A batch: named fields, each with a leading axis b. "image" [b h w c] is uint8,
# or float in [-1, 1]; "text" [b t] int32 token ids, 0 for padding; "label" [b].
Batch: TypeAlias = Mapping[str, Any]
Inputs: TypeAlias = Any  # one field of a batch: the input of one encoder
Example: TypeAlias = Mapping[str, Any]  # one row before batching, NumPy or str
Params: TypeAlias = Mapping[str, Any]  # nested dict of arrays
Memory: TypeAlias = Any  # queues, moving averages; () for most objectives
Counts: TypeAlias = Mapping[str, Any]  # what a command counted, by name
Metrics: TypeAlias = Mapping[str, Any]  # flat: "retrieval/test/text_to_image@1"

# Logical axes, for sharding: rows of (pattern that matches a whole parameter
# path, one name for each axis of the array). The first row that matches counts.
AxisTable: TypeAlias = tuple[tuple[str, tuple[str, ...]], ...]

# One PRNG key per example: dropout and other noise depend on the example, not
# on the chunk or the device that it is processed in.
RowKeys: TypeAlias = Key[Array, "b"]


class Features(NamedTuple):
  """The output of an encoder for a batch.

  Attributes:
    pooled: one vector per example, not normalised.
    tokens: one vector per token; None unless the encoder is configured to
      return them.
    mask: True for real tokens, False for padding; None if there is no padding.
  """

  pooled: Float[Array, "b d"]
  tokens: Float[Array, "b n d"] | None = None
  mask: Bool[Array, "b n"] | None = None


class Embedded(NamedTuple):
  """Everything that an objective may see: the embeddings of a whole batch.

  Attributes:
    views: features by view name: "image" and "text", or the crops of an image.
    side: the fields of the batch that no encoder reads: labels, ids.
  """

  views: Mapping[str, Features]
  side: Mapping[str, Any]

  def field(self, name: str) -> Any:
    """A field of `side` by name; ValueError if the batch has no such field."""
    if name not in self.side:
      raise ValueError(
          f"the objective reads the field {name!r} of the batch, which has "
          f"{sorted(self.side)} beside the fields that are encoded; name one "
          "of these, or add that field to the examples of the source."
      )
    return self.side[name]


class Encoder(NamedTuple):
  """A pair of pure functions from inputs to features, one row at a time.

  Attributes:
    init: (key, inputs) -> params. Works under `jax.eval_shape`.
    apply: (params, inputs, keys) -> Features, where `keys` is one key per row,
      `Key[b]`, or None. Without keys there is no noise: no dropout, no
      stochastic depth.
    axes: the logical axes of its parameters, by paths below the encoder; every
      parameter matches a row.
  """

  init: Callable[[Any, Inputs], Params]
  apply: Callable[[Params, Inputs, Any], Features]
  axes: AxisTable


class View(NamedTuple):
  """An encoder applied to one field of a batch.

  Attributes:
    tower: the entry of the parameters that it uses; views may share a tower.
    field: the field of the batch that it encodes.
    apply: (params of the tower, that field, keys or None) -> Features.
  """

  tower: str
  field: str
  apply: Callable[[Params, Inputs, Any], Features]


class Encode(NamedTuple):
  """Encodes all views of a batch: `encode(params, batch, keys)` -> Embedded.

  A view whose field is missing from the batch is left out: a batch of prompts
  has text embeddings only.

  Attributes:
    views: by name. A gradient may encode them one at a time.
    side: batch -> the fields that no view encodes.
  """

  views: Mapping[str, View]
  side: Callable[[Batch], Mapping[str, Any]]

  def __call__(self, params: Params, batch: Batch, keys: Any = None) -> Embedded:
    features = {
        name: view.apply(params[view.tower], batch[view.field], keys)
        for name, view in self.views.items()
        if view.field in batch
    }
    return Embedded(features, self.side(batch))


class Model(NamedTuple):
  """All towers together: encoders, their projections, and the views.

  Attributes:
    init: (key, batch or its shapes) -> {tower: params}.
    encode: from a batch to its embeddings.
    axes: the logical axes of all towers, paths prefixed by the tower's name.
  """

  init: Callable[[Any, Batch], Params]
  encode: Encode
  axes: AxisTable


class Logits(NamedTuple):
  """How an objective turns cosine similarities into logits of pairs.

      s_ij = scale <x_i, y_j> + bias,    |x_i| = |y_j| = 1

  Attributes:
    scale: the inverse temperature as the loss uses it, `Float[""]`.
    bias: added to every logit, `Float[""]`; 0 if the objective has none.
  """

  scale: Any
  bias: Any = 0.0


class Objective(NamedTuple):
  """A pair of pure functions: a loss over all pairs, and its parameters.

  Attributes:
    init: (key, Embedded of ShapeDtypeStructs) -> (params, memory).
    apply: (params, memory, embedded, key or None) ->
      (loss `Float[""]` in nats per row, (memory, metrics)).
    axes: the logical axes of its parameters, and of its memory under paths that
      begin with "memory": ("kernel", ("embed", "vocab")), ("memory/queue",
      ("slots", "rows", "projected")). Every array of either matches a row;
      scalars need none, since there is nothing to split.
    logits: params -> Logits, for whoever scores pairs after training; None if
      the loss does not compare pairs of normalised embeddings.
  """

  init: Callable[[Any, Embedded], tuple[Params, Memory]]
  apply: Callable[
      [Params, Memory, Embedded, Any],
      tuple[Any, tuple[Memory, Metrics]],
  ]
  axes: AxisTable = ()
  logits: Callable[[Params], Logits] | None = None


def stateless(
    init: Callable[[Any, Embedded], Params],
    loss: Callable[[Params, Embedded, Any], tuple[Any, Metrics]],
    *,
    axes: AxisTable = (),
    logits: Callable[[Params], Logits] | None = None,
) -> Objective:
  """Makes an `Objective` of a loss that keeps no memory between steps.

  Args:
    init: (key, shapes) -> params.
    loss: (params, embedded, key or None) -> (value, metrics).
    axes: as in `Objective`.
    logits: as in `Objective`.

  Returns:
    An objective whose memory is ().
  """

  def apply(params, memory, embedded, rng):
    value, metrics = loss(params, embedded, rng)
    return value, (memory, metrics)

  return Objective(
      lambda rng, shapes: (init(rng, shapes), ()), apply, axes, logits
  )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """The state of training: what a step updates, and the PRNG key of the run.

  Attributes:
    step: steps taken so far, int32 scalar.
    params: {"image": ..., "text": ..., "objective": ...}.
    opt_state: optax state for the trainable part of `params`.
    memory: of the objective: queues, moving averages; () if it has none.
    rng: the same in every step; each step folds in `step`.
  """

  # Not annotated as arrays: JAX also builds this class of shapes and shardings.
  step: Any
  params: Params
  opt_state: Any
  memory: Memory
  rng: Any


# (params, memory, batch, rng) -> ((value, (memory, metrics)), grads), as from
# `jax.value_and_grad(has_aux=True)`. `grads` has the trainable paths only; it
# may be `Contributions`, which not every optimizer accepts.
Gradient: TypeAlias = Callable[
    [Params, Memory, Batch, Any],
    tuple[tuple[Any, tuple[Memory, Metrics]], Any],
]


class Contribution(NamedTuple):
  """The contribution of one chunk of a batch to the gradient.

  Attributes:
    part: nested dict by path: the gradient of the chunk's loss from the rows of
      this replica alone. The contribution is `total(part)`.
    total: tree of arrays -> their sum over the replicas.
    number: index of the chunk, from 0.
    chunks: number of chunks. They are equal in distribution: each has rows of
      the batch at random.
    replicas: number of replicas, and so of parts of a contribution.
  """

  part: Params
  total: Callable[[Any], Any]
  number: Any
  chunks: int
  replicas: int


@dataclasses.dataclass(frozen=True)
class Contributions:
  """A gradient not summed over chunks, for an optimizer that accumulates itself.

  Attributes:
    fold: (add, optimizer state by parameter path) -> that state after every
      contribution, where `add(state of some paths, contribution to these) ->
      state`. `add` may be traced once, as the body of a loop.
  """

  fold: Callable[
      [Callable[[Mapping[str, Any], Contribution], Mapping[str, Any]],
       Mapping[str, Any]],
      dict[str, Any],
  ]


@runtime_checkable
class Source(Protocol):
  """A dataset with random access: a length, and examples by index.

  An example is a dict and a pure function of the index, from 0. Its fields:

    image: uint8 [h w c], c 1 or 3, or a `data.decoding.Encoded`, the content of
      an image file, which the pipeline decodes.
    text: a caption, or a tuple of captions, of which training draws one.
    text_weights: a tuple of non-negative floats, one per caption, in proportion
      to which it is drawn; without it all are equally probable.
    text_languages: a tuple of names of languages, one per caption, "" for none:
      "de", "en-GB". Evaluations of retrieval measure each language.
    label: an integer from 0, a class; or integers [m], padded with -1.
    id: an integer that no other example of the data set has.
    others: numbers, arrays or text, of one shape in all examples.

  Threads read a source concurrently, and processes pickle it. A source that
  cannot read an example raises `Unreadable`, which is counted; other errors end
  the run. These attributes are optional:

    classes: a tuple with the names of the labels, in their order.
    fingerprint: a str that changes with the examples; a run resumes only where
      it is the same. Without it a changed data set is not noticed.
    state: a str that changes whenever a file changes: a digest of names, sizes
      and times of all files, found when it is asked for. Stored embeddings and
      results are used only where it is the same; None or without it they go by
      `fingerprint`.
    order: (seed) -> (position -> index), the order in which an endless stream
      visits the examples, at any position from 0, for a source that has an
      order of its own. Without it each epoch is a random permutation.
    shards: the first index of each file, ascending from 0, where examples of
      one file are faster to read together.
    name: (index) -> str, the path of an example's file or the key of its record,
      by which `basic.embed` and searches name it.
    found: a str that says what was found: which files, columns, extensions.
    where: (index) -> str, the file or record that holds an example, also one
      that cannot be read: "pictures/a.png", "train-0.tar key a". Messages have
      it, and `quarantine.jsonl`. Without it they have the index alone.

  `basic.sources.check` says what a source lacks.
  """

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Example: ...


# (example, generator or None, companion or None) -> arrays, by the end of their
# field's name: of a look "pair", "" makes the field "pair" and "box" "pair_box".
# Without a generator nothing is drawn. The companion is one example that all rows
# of a batch are shown, for what a batch shares; None where there is no batch. A
# str, or a tuple of them, is a caption, or several, and becomes token ids.
Augment: TypeAlias = Callable[
    [Example, Any, Example | None], Mapping[str, Any]
]


class Unreadable(ValueError):
  """An example that cannot be read: skipped, replaced, and counted by `reason`.

  Attributes:
    reason: two or three words, such as "truncated image"; examples with the
      same reason are counted together.
  """

  def __init__(self, reason: str, detail: str = ""):
    super().__init__(f"{reason}: {detail}" if detail else reason)
    self.reason = reason


@runtime_checkable
class Evaluator(Protocol):
  """Computes metrics of an encoder. It is given its data and opens no files.

  Called with `encode(batch) -> Embedded` (parameters bound, no noise) and with
  (batch, mask) pairs; the mask is False for rows that pad the last batch. One
  that has an argument `logits` is given the `Logits` of the objective, or None.
  Metrics that are `ops.bootstrap.Measured` get intervals in tables.
  """

  def __call__(
      self,
      encode: Callable[[Batch], Embedded],
      batches: Iterable[tuple[Batch, Any]],
  ) -> Metrics: ...


@runtime_checkable
class ReferenceEvaluator(Protocol):
  """An `Evaluator` that learns from a second source, such as a training split.

  Called with `reference` too: (batch, mask) pairs like `batches`, of the source
  that the setting `reference` of the evaluation names.
  """

  def __call__(
      self,
      encode: Callable[[Batch], Embedded],
      batches: Iterable[tuple[Batch, Any]],
      reference: Iterable[tuple[Batch, Any]],
  ) -> Metrics: ...


__all__ = [
    "Augment", "AxisTable", "Batch", "Contribution", "Contributions", "Counts",
    "Embedded", "Encode", "Encoder", "Evaluator", "Example", "Features",
    "Gradient", "Inputs", "Logits", "Memory", "Metrics", "Model", "Objective",
    "Params", "ReferenceEvaluator", "RowKeys", "Source", "TrainState", "Unreadable",
    "View", "stateless",
]
