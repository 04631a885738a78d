"""Laws of evaluators, over every module in the folder."""

import importlib
import inspect
import math
import pkgutil

import jax.numpy as jnp
import numpy as np
import pytest

from basic import evals, types

NAMES = sorted(
    module.name for module in pkgutil.iter_modules(evals.__path__)
    if not module.name.startswith("_")
)
WIDTH, LENGTH = 6, 3


def factory(name):
  return getattr(importlib.import_module(f"basic.evals.{name}"), name)


def tokenize(prompts):
  return np.array([[len(p), ord(p[-1]), 1] for p in prompts], np.int32)


# What the program injects, by parameter name.
GIVEN = {
    "tokenize": tokenize, "classes": ("ant", "bee", "cat", "dog"),
    "batch_size": 4,
}


def evaluator(name):
  """The evaluator as its defaults make it, given what only a program knows."""
  make = factory(name)
  wanted = inspect.signature(make).parameters
  return make(**{k: v for k, v in GIVEN.items() if k in wanted})


def takes_reference(name):
  made = inspect.signature(factory(name)).return_annotation
  return made is types.ReferenceEvaluator


def judge(name, rows, filler, reference_rows=None):
  """Metrics of one evaluator, which gets a second source if it takes one."""
  batches = [cut(examples(10), rows, filler)]
  if takes_reference(name):
    batches.append(cut(examples(26, seed=1), reference_rows or rows, filler))
  return evaluator(name)(encode, *batches)


def encode(batch):
  """Two towers that look at one row at a time."""
  rng = np.random.default_rng(7)
  table = rng.normal(size=(200, WIDTH))
  views = {}
  if "image" in batch:
    views["image"] = np.asarray(batch["image"], np.float32)
  if "text" in batch:
    views["text"] = table[np.asarray(batch["text"]) % 200].sum(axis=1)
  side = {k: v for k, v in batch.items() if k not in views}
  features = {k: types.Features(jnp.asarray(v, jnp.float32)) for k, v in views.items()}
  return types.Embedded(features, side)


def examples(rows, seed=0):
  rng = np.random.default_rng(seed)
  return {
      "image": rng.normal(size=(rows, WIDTH)).astype(np.float32),
      "text": rng.integers(1, 200, (rows, LENGTH), np.int32),
      "captions": rng.integers(1, 200, (rows, 2, LENGTH), np.int32),
      "label": np.arange(rows, dtype=np.int32) % 4,
  }


def cut(data, rows, filler):
  """Batches of `rows`; `filler` makes the rows that complete the last one."""
  total = len(data["label"])
  for start in range(0, total, rows):
    batch = {k: v[start : start + rows] for k, v in data.items()}
    real = len(batch["label"])
    extra = filler(rows - real)
    yield (
        {k: np.concatenate([v, extra[k]]) for k, v in batch.items()},
        np.arange(rows) < real,
    )


def zeros(rows):
  return {k: np.zeros_like(v) for k, v in examples(rows).items()}


def rubbish(rows):
  batch = examples(rows)
  batch["image"] += np.nan
  batch["label"] -= 1000
  return {**batch, "text": batch["text"] + 1, "captions": batch["captions"] * 3}


@pytest.mark.parametrize("name", NAMES)
def test_module_defines_one_documented_factory_of_its_name(name):
  module = importlib.import_module(f"basic.evals.{name}")
  make = factory(name)
  assert module.__doc__ and make.__doc__
  assert all(heading in make.__doc__ for heading in ("Args:", "Returns:", "Example:"))
  public = [
      n for n, f in vars(module).items()
      if inspect.isfunction(f) and f.__module__ == module.__name__
      and not n.startswith("_")
  ]
  assert public == [name]


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_keyword_only_annotated_and_explained(name):
  signature = inspect.signature(factory(name))
  assert signature.return_annotation in (types.Evaluator, types.ReferenceEvaluator)
  for parameter in signature.parameters.values():
    assert parameter.kind is parameter.KEYWORD_ONLY
    assert parameter.annotation is not parameter.empty
    assert f"\n  {parameter.name}: " in inspect.getdoc(factory(name))


@pytest.mark.parametrize("name", NAMES)
def test_metrics_are_flat_and_floats(name):
  metrics = judge(name, 4, zeros)
  assert metrics
  for key, value in metrics.items():
    # The recorder writes "<eval>/<name>" and then the key.
    assert key.startswith(("/", "@")), key
    assert isinstance(value, float | np.float32) and math.isfinite(value), key


@pytest.mark.parametrize("name", NAMES)
def test_masked_rows_change_nothing(name):
  assert judge(name, 4, rubbish) == judge(name, 4, zeros)


@pytest.mark.parametrize("name", NAMES)
def test_the_cut_into_batches_changes_nothing(name):
  expected = judge(name, 5, zeros)
  for rows, reference_rows in ((3, 26), (10, 7)):
    assert judge(name, rows, zeros, reference_rows) == pytest.approx(
        expected, rel=1e-6  # float32, other shapes of the same products
    )


@pytest.mark.parametrize("name", NAMES)
def test_an_evaluator_remembers_nothing(name):
  evaluate, rows = evaluator(name), (10, 26) if takes_reference(name) else (10,)
  batches = [list(cut(examples(each, each), 4, zeros)) for each in rows]
  assert evaluate(encode, *batches) == evaluate(encode, *map(iter, batches))
