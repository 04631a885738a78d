"""Imports point left, and each library comes in through one door.

Reads the syntax tree of every file in basic/ and configs/ and imports none.
The two tables are the architecture: a change of architecture is a change here.
"""

import ast
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# A file imports from the rows above its own and never from its own row, except
# that names between one pair of quotes are one thing in several files.
LAYERS = (
    ("types", "paths", "files", "cli"),
    ("ops",),
    ("sharding", "data", "optim"),
    (
        "encoders", "objectives", "augmentations", "sources", "evals",
        "weights", "gradient",
    ),
    ("engine", "recording"),
    ("experiment",),
    ("planning", "pages", "preparation", "interface"),
    ("serving",),
    (
        "train", "evaluate", "plan", "report", "export", "interpolate", "prepare",
        "embed", "serve",
    ),
    ("__init__",),
)

# In these folders each file stands alone, but for the folder's `_private.py`.
PLUGINS = (
    "encoders", "objectives", "augmentations", "sources", "evals", "weights",
    "preparation",
)

# What a configuration may import, apart from other configurations.
CONFIG_IMPORTS = ("ml_collections",)

PROGRAMS = (
    "train", "evaluate", "plan", "report", "export", "interpolate", "prepare",
    "embed", "serve",
)


class Door(NamedTuple):
  """Libraries, or parts of one, and the only places that may touch them."""

  names: tuple[str, ...]
  places: tuple[str, ...]
  why: str


COLLECTIVES = (
    "all_gather", "all_gather_invariant", "all_to_all", "axis_index",
    "axis_size", "pbroadcast", "pcast", "pmax", "pmean", "pmin", "ppermute",
    "pshuffle", "psum", "psum_scatter", "pswapaxes", "pvary",
    "ragged_all_to_all",
)

DOORS = (
    Door(("flax",), ("encoders",), "no other file may know what a module is"),
    Door(
        (
            "jax.shard_map", "jax.experimental.shard_map", "jax.pmap",
            *(f"jax.lax.{name}" for name in COLLECTIVES),
        ),
        ("ops/pairwise/distributed", "ops/pairwise/queries", "sharding"),
        "only all-pairs operations, and sums over replicas, talk between devices",
    ),
    Door(
        (
            "jax.sharding", "jax.make_mesh", "jax.set_mesh", "jax.P",
            "jax.NamedSharding", "jax.experimental.mesh_utils",
        ),
        ("sharding", "ops/pairwise/distributed", "ops/pairwise/queries"),
        "placement is decided in one room",
    ),
    Door(
        ("jax.distributed",), ("sharding/layout",),
        "processes find each other in one file",
    ),
    Door(
        ("jax.experimental.multihost_utils",),
        ("sharding/layout", "engine", "data/stored_embeddings"),
        "processes wait for each other where they start and where they save",
    ),
    Door(
        ("jax.experimental.pallas",), ("ops/pairwise/pallas_kernel",),
        "one file holds what is written for one kind of processor",
    ),
    Door(
        ("optax",), ("optim", "engine/step"),
        "optimisers are chains of optax, and everything else is not",
    ),
    Door(
        ("grain", "tensorflow_datasets", "array_record"),
        ("data", "sources"),
        "data is read before the model sees it",
    ),
    Door(
        ("PIL", "cv2"),
        ("data", "sources", "augmentations", "preparation/_emoji_pictures"),
        "images are decoded and changed before the model sees them",
    ),
    Door(
        ("sentencepiece", "tokenizers"),
        ("data",),
        "text becomes ids in one room",
    ),
    Door(
        ("apache_beam",), ("preparation/_beam",),
        "without the extra `prepare`, work is done in processes here",
    ),
    Door(("safetensors",), ("weights",), "foreign tensors are read in one place"),
    Door(
        ("orbax", "tensorstore"), ("engine/checkpoint", "engine/stored_state"),
        "the format of a checkpoint is known to one file",
    ),
    Door(
        ("ml_collections",), ("experiment", *PROGRAMS),
        "past build there are objects and numbers, never a configuration",
    ),
    Door(
        (
            "importlib.import_module", "importlib.util", "importlib.reload",
            "importlib.machinery", "__import__", "inspect", "pkgutil",
        ),
        ("experiment", "__init__"),
        "names become objects, and signatures are read, in one place",
    ),
    Door(
        ("tensorboardX", "wandb", "tqdm", "matplotlib"),
        ("recording", "pages"),
        "a run is written down and drawn in one place",
    ),
    Door(
        ("starlette", "uvicorn"), ("serving", "serve"),
        "without the extra `serve`, nothing listens",
    ),
    Door(("pandas",), ("interface/metrics",), "columns are NumPy arrays elsewhere"),
    Door(
        ("absl.flags", "absl.app"), PROGRAMS,
        "only a program has a command line",
    ),
    Door(
        ("tensorflow", "torch", "torchvision", "keras", "transformers"),
        (), "neither TensorFlow nor torch is there at run time",
    ),
    Door(
        ("chex", "beartype", "pytest", "hypothesis"),
        (), "it is installed for the tests alone",
    ),
    Door(
        ("pickle", "marshal", "shelve", "dill", "cloudpickle"),
        ("sources/_check",),
        "reading such a file can run code, so only copies made here are read",
    ),
)


class Place(NamedTuple):
  """Where a name stands in the table: row, group in the row, and the name."""

  row: int
  group: str
  name: str


PLACES = {
    name: Place(row, group, name)
    for row, groups in enumerate(LAYERS)
    for group in groups
    for name in group.split()
}


def references(path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
  """Yields (line, full dotted name) of everything imported or reached."""
  package = path.split("/")[:-1]
  aliases = {"__import__": "__import__"}
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      for name in node.names:
        yield node.lineno, name.name
        first = name.name.split(".")[0]
        aliases[name.asname or first] = name.name if name.asname else first
    elif isinstance(node, ast.ImportFrom):
      above = package[: len(package) - node.level + 1] if node.level else []
      base = ".".join(above + ([node.module] if node.module else []))
      for name in node.names:
        yield node.lineno, f"{base}.{name.name}"
        aliases[name.asname or name.name] = f"{base}.{name.name}"
  for node in ast.walk(tree):
    parts = []
    inner = node
    while isinstance(inner, ast.Attribute):
      parts.append(inner.attr)
      inner = inner.value
    if isinstance(inner, ast.Name) and inner.id in aliases:
      yield node.lineno, ".".join([aliases[inner.id], *reversed(parts)])


def within(name: str, prefix: str, separator: str) -> bool:
  return name == prefix or name.startswith(prefix + separator)


def against_layers(here: str, name: str) -> str | None:
  """Says why the file `here` may not reach the module `name`, or None."""
  unit, target = here.split("/")[0], name.split(".")[1]
  leaf = [*name.split("."), ""][2]
  if unit == target:
    if unit in PLUGINS and leaf and not leaf.startswith("_"):
      own = here.split("/")[-1]
      return None if leaf == own else "a plug-in does not know its siblings"
    return None
  if target not in PLACES:
    return f"basic/{target} is in no layer; LAYERS in this test lists them"
  if leaf.startswith("_") and not leaf.startswith("__"):
    return f"{leaf} is private to basic/{target}"
  mine, theirs = PLACES[unit], PLACES[target]
  if mine.group == theirs.group or theirs.row < mine.row:
    return None
  if mine.row == theirs.row:
    return f"{unit} and {target} stand side by side and do not know each other"
  return f"imports point left, and {target} is to the right of {unit}"


def against_doors(here: str, name: str) -> str | None:
  """Says why the file `here` may not touch the library `name`, or None."""
  for door in DOORS:
    if any(within(name, listed, ".") for listed in door.names):
      if not any(within(here, place, "/") for place in door.places):
        where = ", ".join(f"basic/{place}" for place in door.places)
        return f"{door.why} (only {where or 'outside basic/'})"
  return None


def against_configs(name: str, configs: frozenset[str]) -> str | None:
  """Says why a configuration may not import `name`, or None."""
  if name.split(".")[0] in (*CONFIG_IMPORTS, "configs", *configs):
    return None
  return "a configuration names things and does not touch them"


def violations(path: str, source: str) -> list[str]:
  """Lists what a file does against the tables, one line each.

  Args:
    path: from the root of the repository, such as "basic/ops/tiles.py".
    source: the text of the file.
  """
  folder, _, here = path.removesuffix(".py").partition("/")
  configs = frozenset(file.stem for file in (ROOT / "configs").glob("*.py"))
  if folder == "basic" and here.split("/")[0] not in PLACES:
    return [f"{path}:1 is in no layer; LAYERS in this test lists them"]
  found = {}
  for line, name in sorted(references(path, ast.parse(source))):
    if folder == "configs":
      why = against_configs(name, configs)
    elif within(name, "basic", "."):
      why = against_layers(here, name) if "." in name else None
    else:
      why = against_doors(here, name)
    if why:  # a line imports a name once, and reaches into it often
      found.setdefault((line, why), f"{path}:{line} imports {name}: {why}")
  return list(found.values())


def files() -> list[str]:
  return sorted(
      str(path.relative_to(ROOT))
      for folder in ("basic", "configs")
      for path in (ROOT / folder).rglob("*.py")
  )


@pytest.mark.parametrize("path", files())
def test_imports_point_left_and_libraries_come_through_their_door(path):
  found = violations(path, (ROOT / path).read_text())
  assert not found, "\n" + "\n".join(found)


def test_the_walk_reaches_modules_and_folders():
  assert "basic/types.py" in files()
  assert any(path.startswith("basic/ops/") for path in files())


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        (
            "basic/ops/tiles.py", "import jax\n\nfrom basic.engine import model\n",
            "basic/ops/tiles.py:3 imports basic.engine.model: imports point left",
        ),
        ("basic/types.py", "import basic.ops.tiles\n", "point left"),
        ("basic/paths.py", "from basic import types\n", "side by side"),
        ("basic/engine/model.py", "from ..experiment import build\n",
         "imports basic.experiment.build"),
        ("basic/encoders/vit.py", "from ..engine.model import encode\n", "point left"),
        ("basic/encoders/vit.py", "from basic.encoders import resnet\n",
         "siblings"),
        ("basic/encoders/vit.py", "from . import resnet\n", "siblings"),
        ("basic/encoders/vit.py", "from basic.evals import zeroshot\n",
         "side by side"),
        ("basic/encoders/vit.py", "from basic import gradient\n",
         "side by side"),
        ("basic/engine/model.py", "from basic.encoders import _blocks\n", "private"),
        ("basic/gradient/cached.py", "def f():\n  from basic.engine import model\n",
         "basic/gradient/cached.py:2"),
        ("basic/engine/model.py", "import basic\nx = basic.experiment.build.run\n",
         "basic/engine/model.py:2 imports basic.experiment"),
        ("basic/train.py", "from basic import evaluate\n", "side by side"),
        ("basic/train.py", "from basic import utils\n", "in no layer"),
        ("basic/utils.py", "", "basic/utils.py:1 is in no layer"),
        ("basic/engine/model.py", "import flax.linen as nn\n", "encoders"),
        ("basic/engine/model.py", "from flax import linen\n", "encoders"),
        ("basic/gradient/cached.py", "import jax\ny = jax.lax.psum(x, 'data')\n",
         "basic/gradient/cached.py:2 imports jax.lax.psum"),
        ("basic/gradient/cached.py", "from jax import lax\ny = lax.ppermute(x)\n",
         "jax.lax.ppermute"),
        ("basic/ops/tiles.py", "from jax.lax import all_gather as g\n",
         "ops/pairwise/distributed"),
        ("basic/engine/step.py", "import jax\nf = jax.shard_map(g)\n",
         "shard_map"),
        ("basic/engine/step.py", "from jax.sharding import Mesh\n", "sharding"),
        ("basic/engine/step.py", "import jax as j\nm = j.make_mesh((1,), ('a',))\n",
         "jax.make_mesh"),
        ("basic/sharding/row_sharding.py", "import jax.distributed\n", "layout"),
        ("basic/gradient/cached.py", "import optax\n", "optim"),
        ("basic/engine/model.py", "import tensorflow_datasets as tfds\n", "data"),
        ("basic/weights/timm.py", "from PIL import Image\n", "sources"),
        ("basic/recording/recorder.py", "import orbax.checkpoint as ocp\n",
         "checkpoint"),
        ("basic/engine/step.py", "from ml_collections import ConfigDict\n",
         "experiment"),
        ("basic/engine/model.py", "import importlib\nimportlib.import_module('x')\n",
         "importlib.import_module"),
        ("basic/engine/model.py", "__import__('basic.experiment')\n", "__import__"),
        ("basic/engine/model.py", "import inspect\n", "experiment"),
        ("basic/train.py", "import matplotlib.pyplot as plt\n", "recording"),
        ("basic/experiment/build.py", "from absl import flags\n", "command line"),
        ("basic/weights/clip.py", "import torch\n", "outside basic/"),
        ("basic/sources/tar.py", "import pickle\n", "can run code"),
        ("configs/digits.py", "from basic import types\n", "names things"),
        ("configs/digits.py", "import os\n", "names things"),
    ],
)
def test_a_planted_violation_is_found(path, source, expected):
  found = violations(path, source)
  assert len(found) == 1, found
  assert expected in found[0]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("basic/engine/model.py", "from basic import types\nz = types.Features\n"),
        ("basic/encoders/vit.py", "from flax import linen as nn\n"),
        ("basic/encoders/vit.py", "from basic.encoders import _blocks\n"),
        ("basic/encoders/vit.py", "from basic.ops import attention\n"),
        ("basic/sources/tar.py", "import cv2\nfrom basic.data import images\n"),
        ("basic/ops/pairwise/distributed.py", "from jax.sharding import Mesh\n"),
        ("basic/ops/pairwise/distributed.py", "import jax\njax.lax.psum(x, 'a')\n"),
        ("basic/ops/pairwise/reductions.py", "from basic.ops.pairwise import tiles\n"),
        ("basic/optim/adamw.py", "import optax\nfrom basic.optim import schedules\n"),
        ("basic/recording/manifest.py", "import importlib.metadata\n"),
        ("basic/engine/step.py", "psum = 1\nmesh = psum\nx.lax.psum(y)\n"),
        ("basic/report.py", "from absl import app\nfrom basic.pages import page\n"),
        ("configs/digits.py", "from ml_collections import ConfigDict\n"),
    ],
)
def test_what_the_tables_allow_passes(path, source):
  assert violations(path, source) == []
