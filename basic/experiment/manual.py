"""The settings of an experiment: their documentation, types and defaults.

The functions have no body. They are schemas: their arguments are the settings of
a group, and their docstrings are the manual. `settings.complete` checks a
configuration against them.
"""

from collections.abc import Mapping
from typing import Any

Settings = Mapping[str, Any]


def experiment(
    *,
    steps: int,
    batch_size: int,
    source: Settings,
    objective: Settings,
    optimizer: Settings,
    image: Settings | None = None,
    text: Settings | None = None,
    seed: int = 0,
    views: Settings | None = None,
    projection: Settings | None = None,
    augment: Settings | None = None,
    looks: Settings | None = None,
    photometric: Settings | None = None,
    captions: Settings | None = None,
    loader: Settings | None = None,
    gradient: Settings | None = None,
    frozen: tuple[str, ...] = (),
    stored: tuple[str, ...] = (),
    mesh: Settings | None = None,
    tokenizer: Settings | None = None,
    checkpoint: Settings | None = None,
    record: Settings | None = None,
    unreadable: Settings | None = None,
    evals: Settings | None = None,
    weights: Settings | None = None,
    stages: tuple[Settings, ...] = (),
) -> None:
  """The settings of an experiment; each group configures what it names.

  Args:
    steps: length of the run; with `stages`, each stage sets its own.
    batch_size: examples in the global batch.
    source: `name` of a source and its settings.
    objective: `name` of an objective and its settings.
    optimizer: `name` of an optimizer and its settings.
    image: `name` of the encoder that reads "image", and its settings.
    text: `name` of the encoder that reads "text", and its settings.
    seed: seed of all random numbers.
    views: field of the batch -> tower, where their names differ.
    projection: `width` and `bias` of the projections (engine/model.py).
    augment: augmentation of training images (data/images.py).
    looks: by field of the batch: `name` of an augmentation in augmentations/ and
      its settings. Training reads these fields in place of "image", views name
      them, and evaluations read "image" as `augment` makes it.
    photometric: by field of the batch: changes of color that training draws on
      the device (ops/photometric.py).
    captions: how captions are made from labels (data/captions.py); None: the
      source's own captions.
    loader: how training examples are read, and in which order (`loader` below).
    gradient: `name` of a gradient method in gradient/, and its settings.
    frozen: patterns of the paths of parameters that are not trained.
    stored: views of locked towers whose embeddings are computed once, at the
      start of the stage, stored in the run's folder and read from there.
    mesh: devices along data, fsdp and model (sharding/layout.py).
    tokenizer: origin of the vocabulary (`vocabulary` below).
    checkpoint: `every` and `keep` (engine/checkpoint.py).
    record: which metrics are recorded, and how often (`recording` below).
    unreadable: what happens if examples cannot be read (`unreadable` below).
    evals: by label: `name` of an evaluator, its settings, and those of
      `evaluation` below; some need those of `evaluation_with_reference` too.
    weights: pretrained weights to begin from: `name` of a format in weights/,
      and `initial` below.
    stages: for each stage in order, the settings that it changes, and settings
      of its own (`stage` below). A stage that changes `optimizer` or `frozen`
      resets optimizer state, EMA parameters and the learning rate schedule.
  """


def stage(*, fresh: tuple[str, ...] = ()) -> None:
  """Settings that only a stage has, besides those that it changes.

  Args:
    fresh: patterns of the paths of parameters that are initialised again
      instead of continuing from the stage before (engine/carry.py,
      `check`).
  """


def loader(
    *,
    threads: int = 8,
    workers: int = 0,
    prefetch: int = 2,
    shuffle: str | None = "examples",
    window: int = 8,
) -> None:
  """Settings of the reading of training data.

  `threads`, `workers` and `prefetch` may change whenever a run is resumed: the
  batches stay the same.

  Args:
    threads: threads that read, in this process or in each worker.
    workers: processes that read in place of the threads of this one, on a host
      where Python's lock limits these.
    prefetch: batches that are begun before they are needed; so many, and one
      more, are in memory.
    shuffle: "examples" permutes all examples in each epoch; "shards", for slow
      storage, permutes the files and the examples of `window` files at a time;
      None visits the examples by their index (data/orders.py).
    window: files whose examples are permuted together.
  """


def vocabulary(
    *,
    captions: int = 10_000,
    model: str | None = None,
    clean: str | None = None,
) -> None:
  """Settings of the vocabulary.

  Args:
    captions: number of examples whose captions the tokenizer is trained on.
    model: a file to use instead: a vocabulary of this library, a tokenizer.json
      or another SentencePiece model (data/vocabulary.py, `read`).
    clean: how captions are cleaned before they become ids: "none", "whitespace"
      (mojibake, HTML entities and whitespace), "lower" (and lower case), or
      "canonicalize" (and no punctuation); data/cleaning.py. None: as the
      pretrained weights or the file say; otherwise not.
  """


def initial(*, path: str, paths: tuple[str, ...] = (".*",)) -> None:
  """Settings of the pretrained weights that a run begins from.

  Args:
    path: the file or folder, in the format `name`.
    paths: patterns of the paths of parameters to load: ("image/.*",).
  """


def recording(
    *,
    every: int = 100,
    tensorboard: bool = True,
    wandb: Settings | None = None,
) -> None:
  """Settings of the recorded metrics.

  Args:
    every: steps between two lines of metrics.jsonl.
    tensorboard: whether to write TensorBoard event files too.
    wandb: arguments of `wandb.init`; None leaves Weights & Biases out.
  """


def unreadable(
    *,
    most: float = 0.1,
    window: int = 10_000,
    listed: int = 10_000,
    warn_after: float = 60.0,
    stop_after: float | None = 600.0,
) -> None:
  """What happens if examples cannot be read: they are replaced, counted, listed.

  A run that has begun may change these.

  Args:
    most: the fraction of unreadable examples, 0 to 1, above which the run stops
      (data/damage.py); 1: it never does.
    window: number of latest examples that the fraction is of.
    listed: number of examples that quarantine.jsonl lists at most.
    warn_after: seconds without any example until a warning.
    stop_after: seconds without any example until the run stops; None: it waits.
  """


def evaluation(
    *,
    source: Settings,
    every: int | None = None,
    batch_size: int = 128,
    limit: int | None = None,
    label_captions: Settings | None = None,
) -> None:
  """Settings of an evaluation, besides those of its evaluator.

  Args:
    source: `name` of a source and its settings.
    every: steps between two evaluations; None: at the end only.
    batch_size: examples that are encoded at a time.
    limit: number of examples to evaluate on; None: all.
    label_captions: how captions are made from labels (data/captions.py): always
      the first template, none drawn at random; None: its source's own captions.
  """


def evaluation_with_reference(
    *, reference: Settings, reference_limit: int | None = None
) -> None:
  """Settings of an evaluation whose evaluator takes a second source.

  These are besides those of `evaluation`, of which `batch_size` and
  `label_captions` hold for both sources.

  Args:
    reference: `name` of a source and its settings: the examples that a probe is
      fitted on, or among which neighbours are found; a training split.
    reference_limit: number of its examples to use, the first ones; None: all.
  """
