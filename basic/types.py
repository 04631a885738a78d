"""The nouns: what the parts of a contrastive run hand to each other.

Contrastive pretraining is one equation in two lines,

    Z = encode(theta, batch)      row by row: example i sees only example i
    L = objective(phi, Z)         all pairs: i depends on j only through Z

and the types below are that cut. An objective never sees a pixel; an encoder
never sees another row. Shape letters: b batch, n tokens, t text length,
d width, i image rows, j text rows, h w c image, l layers.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
from jaxtyping import Array, Bool, Float, Key

# A batch: every leaf has a leading axis b. "image" [b h w c] is uint8, or
# float in [-1, 1]; "text" [b t] holds int32 ids and 0 pads; "label" [b], ...
Batch: TypeAlias = Mapping[str, Any]
Inputs: TypeAlias = Any  # one leaf of a batch: what one encoder reads
Example: TypeAlias = Mapping[str, Any]  # one row before batching, NumPy or str
Params: TypeAlias = Mapping[str, Any]  # nested dict of arrays
Memory: TypeAlias = Any  # queues, moving averages; () for most objectives
Metrics: TypeAlias = Mapping[str, Any]  # flat: "retrieval/test/text_to_image@1"

# Placement: rows of (pattern on the whole parameter path, names of its axes).
AxisTable: TypeAlias = tuple[tuple[str, tuple[str, ...]], ...]

# One key per example, so that noise follows the example and not the chunk.
RowKeys: TypeAlias = Key[Array, "b"]


class Features(NamedTuple):
  """What an encoder makes of a batch.

  Attributes:
    pooled: one vector an example, not normalised.
    tokens: one vector a token; None unless the encoder was asked to keep them.
    mask: True where a token is real; None where all are.
  """

  pooled: Float[Array, "b d"]
  tokens: Float[Array, "b n d"] | None = None
  mask: Bool[Array, "b n"] | None = None


class Embedded(NamedTuple):
  """All that an objective may see.

  Attributes:
    views: features by view name: "image" and "text", or six crops, or ...
    side: what of the batch is not encoded and belongs to a row: labels, ids.
  """

  views: Mapping[str, Features]
  side: Mapping[str, Any]

  def leaf(self, name: str) -> Any:
    """What `side` knows under a name; ValueError if there is no such leaf."""
    if name not in self.side:
      raise ValueError(
          f"the objective reads {name!r} of the batch, which has "
          f"{sorted(self.side)} beside what is encoded; name one of these, or "
          "give the examples of the source that leaf."
      )
    return self.side[name]


class Encoder(NamedTuple):
  """A pair of pure functions from inputs to features, one row at a time.

  Attributes:
    init: (key, inputs) -> params. Works under `jax.eval_shape`.
    apply: (params, inputs, keys) -> Features, where `keys` is one key a row,
      `Key[b]`, or None. No key, no noise.
    axes: parameter path -> names of its axes; every path matches one row.
  """

  init: Callable[[Any, Inputs], Params]
  apply: Callable[[Params, Inputs, Any], Features]
  axes: AxisTable


class View(NamedTuple):
  """One way to look at a batch: an encoder over one of its leaves.

  Attributes:
    tower: the entry of the parameters that it reads; views may share one.
    leaf: the entry of the batch that it reads.
    apply: (params of the tower, that leaf, keys or None) -> Features.
  """

  tower: str
  leaf: str
  apply: Callable[[Params, Inputs, Any], Features]


class Encode(NamedTuple):
  """All views of a batch, row by row; call it as `encode(params, batch, keys)`.

  A batch that lacks a view's leaf has no such view: prompts alone make text.

  Attributes:
    views: by name. A gradient may walk them one at a time.
    side: batch -> the leaves that belong to rows and are not encoded.
  """

  views: Mapping[str, View]
  side: Callable[[Batch], Mapping[str, Any]]

  def __call__(self, params: Params, batch: Batch, keys: Any = None) -> Embedded:
    features = {
        name: view.apply(params[view.tower], batch[view.leaf], keys)
        for name, view in self.views.items()
        if view.leaf in batch
    }
    return Embedded(features, self.side(batch))


class Model(NamedTuple):
  """Towers and what they make of a batch.

  Attributes:
    init: (key, batch or its shapes) -> {tower: params}.
    encode: the views of a batch.
    axes: the axis table of all towers, paths prefixed by the tower's name.
  """

  init: Callable[[Any, Batch], Params]
  encode: Encode
  axes: AxisTable


class Objective(NamedTuple):
  """A pair of pure functions: a loss over all pairs, and what it learns.

  Attributes:
    init: (key, Embedded of ShapeDtypeStructs) -> (params, memory).
    apply: (params, memory, embedded, key or None) ->
      (loss `Float[""]` in nats per row, (memory, metrics)).
  """

  init: Callable[[Any, Embedded], tuple[Params, Memory]]
  apply: Callable[
      [Params, Memory, Embedded, Any],
      tuple[Any, tuple[Memory, Metrics]],
  ]


def stateless(
    init: Callable[[Any, Embedded], Params],
    loss: Callable[[Params, Embedded, Any], tuple[Any, Metrics]],
) -> Objective:
  """Lifts a loss that remembers nothing into an `Objective`.

  Args:
    init: (key, shapes) -> params.
    loss: (params, embedded, key or None) -> (value, metrics).

  Returns:
    An objective whose memory is ().
  """

  def apply(params, memory, embedded, rng):
    value, metrics = loss(params, embedded, rng)
    return value, (memory, metrics)

  return Objective(lambda rng, shapes: (init(rng, shapes), ()), apply)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Everything that a step changes, and the key that it does not.

  Attributes:
    step: steps taken so far, int32 scalar.
    params: {"image": ..., "text": ..., "objective": ...}.
    opt_state: optax state over the trainable part of `params`.
    memory: what the objective remembers.
    rng: constant; each step folds in `step`.
  """

  # Not annotated as arrays: JAX rebuilds the class around shapes and shardings.
  step: Any
  params: Params
  opt_state: Any
  memory: Memory
  rng: Any


# (params, memory, batch, rng) -> ((value, (memory, metrics)), grads): the shape
# of `jax.value_and_grad(has_aux=True)`. `grads` holds the trainable paths only;
# it may be `Contributions`, which not every optimizer takes.
Gradient: TypeAlias = Callable[
    [Params, Memory, Batch, Any],
    tuple[tuple[Any, tuple[Memory, Metrics]], Any],
]


class Contribution(NamedTuple):
  """What one chunk of a batch adds to a gradient.

  Attributes:
    part: nested dict by path; of the chunk's gradient, what the rows of this
      copy of the parameters add. The contribution is `total(part)`.
    total: tree of arrays -> their sum over the copies.
    number: of the chunk, from 0.
    chunks: how many there are, alike but for chance in their rows.
    copies: how many parts a contribution has.
  """

  part: Params
  total: Callable[[Any], Any]
  number: Any
  chunks: int
  copies: int


@dataclasses.dataclass(frozen=True)
class Contributions:
  """A gradient whose chunks nobody has added up, for an optimizer that will.

  Attributes:
    fold: (add, slots by path) -> slots with every contribution in them, where
      `add(slots of some paths, contribution to these) -> slots`. It may be
      called in a loop that the compiler sees once.
  """

  fold: Callable[
      [Callable[[Mapping[str, Any], Contribution], Mapping[str, Any]],
       Mapping[str, Any]],
      dict[str, Any],
  ]


@runtime_checkable
class Source(Protocol):
  """Examples by number, nothing more.

  An example is a dict: "image" uint8 [h w c], "text" str or tuple of str,
  "label" int, ... A source that cannot read an example raises `Unreadable`.
  """

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Example: ...


class Unreadable(ValueError):
  """An example that cannot be used: counted by `reason` and replaced.

  Attributes:
    reason: two or three words to count by, such as "truncated image".
  """

  def __init__(self, reason: str, detail: str = ""):
    super().__init__(f"{reason}: {detail}" if detail else reason)
    self.reason = reason


@runtime_checkable
class Evaluator(Protocol):
  """Judges an encoder; given what it needs, it opens nothing.

  Called with `encode(batch) -> Embedded` (parameters bound, no noise), with
  batches and a mask that is False on rows that only fill the last batch.
  """

  def __call__(
      self,
      encode: Callable[[Batch], Embedded],
      batches: Iterable[tuple[Batch, Any]],
  ) -> Metrics: ...


__all__ = [
    "AxisTable", "Batch", "Contribution", "Contributions", "Embedded", "Encode",
    "Encoder", "Evaluator", "Example", "Features", "Gradient", "Inputs",
    "Memory", "Metrics", "Model", "Objective", "Params", "RowKeys", "Source",
    "TrainState", "Unreadable", "View", "stateless",
]
