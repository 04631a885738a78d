"""No value of any setting makes Python's own exceptions reach a user."""

import copy
import functools
import logging
import math

import pytest

from basic.experiment import sanity, settings

WRONG = (
    None, "", -1, 0, 1.5, 10**12, [], {}, "x", True, math.nan, math.inf, b"x",
    (1, "a"), {"name": 3}, {"name": []},
)
SMALL = dict(
    steps=2, batch_size=16,
    source=dict(name="digits", canvas=24),
    objective=dict(name="softmax"),
    optimizer=dict(name="adamw", peak=1e-3),
    image=dict(name="vit", width=16, depth=1, heads=2, patch=8),
    text=dict(name="text_transformer", width=16, depth=1, heads=2),
    captions=dict(templates=("the digit {}",)),
    gradient=dict(name="cached", chunks=2),
    evals=dict(digits=dict(
        name="zeroshot", source=dict(name="digits", split="test"))),
    weights=dict(name="hf_clip", path="clip"),
    stages=(dict(steps=1), dict(steps=1, frozen=("image/.*",))),
)


@functools.cache
def full():
  return settings.complete(SMALL)


def nodes(tree, above=()):
  for key, value in tree.items():
    yield (*above, key)
    if isinstance(value, dict):
      yield from nodes(value, (*above, key))


def replaced(path, value):
  config = copy.deepcopy(full())
  *branch, last = path
  node = config
  for key in branch:
    node = node[key]
  node[last] = value
  return config


@pytest.fixture(autouse=True)
def silent():
  logging.disable(logging.WARNING)
  yield
  logging.disable(logging.NOTSET)


@pytest.mark.parametrize("group", full())
def test_a_wrong_value_is_refused_by_its_path_or_taken(group):
  paths = [path for path in nodes(full()) if path[0] == group]
  assert paths
  for path in paths:
    for value in WRONG:
      config = replaced(path, value)
      try:
        sanity.check(config, settings.complete(config))
      except ValueError as error:  # And nothing else.
        # The last part that there is: below a wrong group there is none.
        assert path[-1] in str(error) or path[0] in str(error), (path, value)


@pytest.mark.parametrize(("path", "value", "sentence"), [
    (("source", "name"), 3, "source.name is 3; it takes the name"),
    (("optimizer", "name"), None, "optimizer.name is None; it takes the name"),
    (("evals", "digits"), 3, "evals.digits is 3; it takes the settings of"),
    (("image", "width"), 10**12, "image.width is 1000000000000; it takes less"),
    (("augment", "scale"), (), r"augment.scale is \(\)"),
])
def test_what_used_to_be_a_traceback_is_a_sentence(path, value, sentence):
  config = replaced(path, value)
  with pytest.raises(ValueError, match=sentence):
    sanity.check(config, settings.complete(config))


@pytest.mark.parametrize("stages", [(3,), ("x",), (None,)])
def test_a_stage_that_is_no_mapping_is_refused(stages):
  with pytest.raises(ValueError, match=r"config\.stages is"):
    settings.complete({**full(), "stages": stages})


@pytest.mark.parametrize("label", ["weights", "text"])
def test_proportions_of_sources_may_be_large_and_sizes_may_not(label):
  def check(**changes):
    inner = dict(name="digits", canvas=24, **changes)
    source = dict(
        name="mixture", sources={label: inner}, weights={label: 3_000_000_000})
    config = {**full(), "source": source}
    sanity.check(config, settings.complete(config))

  check()
  with pytest.raises(ValueError, match=rf"{label}\.length is 2147483648; it takes"):
    check(length=2**31)
