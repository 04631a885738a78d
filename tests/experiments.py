"""The experiments of configs/, as they are and as small as they go.

Data that is not on this machine is replaced by drawn scenes, which every
machine has.
"""

import importlib.util
import pathlib

import numpy as np

from basic.experiment import build, input_pipeline, schema, settings

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAMES = sorted(
    path.stem for path in (ROOT / "configs").glob("*.py")
    if not path.stem.startswith("_")
)

ROWS = 16
# Settings that make something large, wherever they stand, and what is enough.
MOST = {
    "width": 16, "depth": 2, "mlp": 32, "vocab": 300, "length": 16,
    "channels": 16, "size": 32, "batch_size": ROWS, "limit": ROWS,
    "captions": 200, "tile": 64, "warmup": 0, "chunks": 2,
}
# What replaces settings of encoders: sizes that depend on each other.
SMALL = {
    "vit": dict(
        variant=None, width=16, depth=2, heads=2, mlp=None, patch=8
    ),
    "resnet": dict(depth=26, width=1 / 16, groups=1),
    "coatnet": dict(
        variant=None, depths=(1,) * 5, widths=(8, 8, 8, 16, 16), head=8,
        remat="none",  # Which changes no number, and takes long to compile.
    ),
    "text_transformer": dict(width=16, depth=1, heads=2, mlp=None, length=16),
}
STANDS_IN = dict(name="shapes", split="train", canvas=32)


def read(name):
  """The complete configuration of a file."""
  path = ROOT / "configs" / f"{name}.py"
  spec = importlib.util.spec_from_file_location(f"configs_{name}", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return settings.complete(module.get_config().to_dict())


def is_here(source):
  """Whether the data of a source can be opened on this machine."""
  own = {k: v for k, v in source.items() if k != "name"}
  try:
    schema.plugin("sources", source["name"])(**own)
  except (ValueError, OSError):
    return False
  return True


def at_hand(config):
  """The same experiment over data that is here, on the devices that are here.

  Evaluations of data that is not here are left out, and so are weights.
  """
  given = {**_data_at_hand(config), "weights": None}
  given["stages"] = [
      _data_at_hand(changes, config["source"]) for changes in config["stages"]
  ]
  given["mesh"] = dict(data=-1, fsdp=1, model=1)
  given["tokenizer"] = {**config["tokenizer"], "model": None}
  return settings.complete(given)


def _data_at_hand(changes, base=None):
  """An experiment, or what a stage changes of one, over data that is here."""
  given = dict(changes)
  if "source" in changes:
    whole = settings.changed(base or {}, changes["source"])
    if base and whole["name"] != base["name"]:
      whole = changes["source"]
    given["source"] = whole if is_here(whole) else STANDS_IN
  if changes.get("evals"):
    given["evals"] = {
        label: how for label, how in changes["evals"].items()
        if is_here(how["source"])
    }
  return given


def shrunk(config):
  """The same experiment, two steps long and as small as it goes."""
  found = _lessened(at_hand(config))
  for tower in ("image", "text"):
    if found[tower] is not None:
      own = SMALL.get(found[tower]["name"], {})
      found[tower] = {**found[tower], **own}
  if found["text"] is not None:
    found["text"]["vocab"] = max(found["text"]["vocab"], MOST["vocab"])
  found["steps"] = 2
  found["stages"] = [
      {**_lessened(changes), "steps": 2} for changes in found["stages"]
  ]
  return settings.complete(found)


def _lessened(tree, inside=None):
  """Numbers that are larger than `MOST` allows, at what it allows."""

  def less(key, value):
    if isinstance(value, dict):
      # {"chunks": {"image": 64}} speaks of chunks.
      return _lessened(value, key if key in MOST else None)
    most = MOST.get(inside or key)
    known = most is not None and type(value) is int
    return min(value, most) if known else value

  return {key: less(key, value) for key, value in tree.items()}


def tokenize(length):
  """Text to ids that only have the right shape."""
  return lambda text: np.ones(length, np.int32)


def programs(config, mesh):
  """What each stage computes, at full size, without its data."""
  for stage in build.stage_configs(at_hand(config)):
    text = stage["text"]
    shapes = input_pipeline.batch_shapes(
        stage, None if text is None else tokenize(text["length"])
    )
    yield build.program(stage, mesh, shapes, steps=stage["steps"])
