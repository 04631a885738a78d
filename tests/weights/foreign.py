"""Tiny foreign models, made at random, and our towers from their settings."""

import functools
import importlib
import json

import jax
import numpy as np
import pytest

from basic import paths
from basic.encoders import clip_resnet, resnet, text_transformer, vit
from basic.engine import model

TEXTS = (
    "a red cat", "A photo of two dogs!", "it's 7 o'clock", "", "café  au lait",
    "the quick brown fox jumps over the lazy dog and runs far away from here",
)
SIDE = 12  # pixels; three patches of 4


def library(name="transformers"):
  """torch and transformers, or a skip that says why."""
  for needed in ("torch", name):
    pytest.importorskip(
        needed, reason=f"{needed} is not installed: parity with foreign "
        "weights is tested where the extra `parity` is"
    )
  found = importlib.import_module(name)
  if name == "transformers":
    found.logging.set_verbosity_error()
    found.logging.disable_progress_bar()
  return found


def towers(settings):
  """Our model, from what a format says of its weights."""
  own = {k: v for k, v in settings["image"].items() if k != "name"}
  kinds = {
      "vit": vit.vit, "clip_resnet": clip_resnet.clip_resnet,
      "resnet": resnet.resnet,
  }
  image = kinds[settings["image"]["name"]](**own, dtype="float32")
  if "text" not in settings:
    return model.model({"image": image})
  text = {k: v for k, v in settings["text"].items() if k != "name"}
  return model.model(
      {
          "image": image,
          "text": text_transformer.text_transformer(**text, dtype="float32"),
      },
      **settings["projection"],
  )


_compiled = {}


def views(weights, **batch):
  """Embeddings by view, not normalised, of our towers."""
  groups = [weights.settings.get(k) for k in ("image", "text", "projection")]
  if repr(groups) not in _compiled:
    # Most of the time here would be the compiler's.
    _compiled[repr(groups)] = jax.jit(
        towers(weights.settings).encode.__call__,
        compiler_options={"xla_backend_optimization_level": 0},
    )
  params = {k: weights.params[k] for k in batch}
  z = _compiled[repr(groups)](params, batch).views
  return {name: np.asarray(view.pooled) for name, view in z.items()}


def embed(weights, images, ids):
  """(image embeddings, text embeddings), not normalised, of our towers."""
  found = views(weights, image=images, text=ids)
  return found["image"], found["text"]


def unit(x):
  """Rows of length 1."""
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def logits(weights, image, text):
  """[i j], with the scale and bias of the objective's parameters."""
  phi = weights.params["objective"]
  matches = unit(image) @ unit(text).T
  return np.exp(phi["log_scale"]) * matches + phi.get("bias", 0.0)


def near(found, expected):
  """Within 1e-4 of the other's length, the parity that is promised."""
  found, expected = np.asarray(found), np.asarray(expected)
  assert found.shape == expected.shape
  error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
  assert error < 1e-4, error
  return True


def shake(module, seed=0):
  """Every parameter redrawn, so that no bias is zero and no scale one."""
  import torch

  draw = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, leaf in module.named_parameters():
      if leaf.numel() > 1:
        noise = torch.randn(leaf.shape, generator=draw)
        leaf.copy_(0.3 * noise + (1.0 if "norm" in name and
                                  name.endswith("weight") else 0.0))
  return module.eval()


def photos(count=3, height=20, width=17, seed=0):
  """Smooth noise, uint8 [h w 3], no side what a tower reads."""
  draw = np.random.default_rng(seed)
  coarse = draw.integers(0, 256, (count, 5, 5, 3)).astype(np.float32)
  grid = [np.linspace(0, 4, n) for n in (height, width)]
  low = [g.astype(int).clip(0, 3) for g in grid]
  part = [(g - n)[:, None] for g, n in zip(grid, low, strict=True)]
  rows = coarse[:, low[0]] * (1 - part[0][:, None]) + (
      coarse[:, low[0] + 1] * part[0][:, None])
  both = rows[:, :, low[1]] * (1 - part[1]) + rows[:, :, low[1] + 1] * part[1]
  return both.astype(np.uint8)


def redraw(shapes, seed=0):
  """Parameters of our towers with nothing at zero or one."""
  draw = np.random.default_rng(seed)
  return paths.map_paths(
      lambda path, leaf: (
          draw.uniform(0.5, 2, leaf.shape) if path.endswith("variance") else
          draw.normal(size=leaf.shape) * 0.3 + path.endswith("scale")
      ).astype(np.float32),
      shapes,
  )


@functools.cache
def byte_vocabulary():
  """Pieces and merges of a byte-level vocabulary in CLIP's manner."""
  from tokenizers import pre_tokenizers

  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  merges = [("a", "t</w>"), ("c", "at</w>"), ("d", "o"), ("do", "g"),
            ("r", "e"), ("re", "d</w>"), ("t", "h"), ("th", "e</w>")]
  pieces = letters + [x + "</w>" for x in letters]
  pieces += ["".join(pair) for pair in merges]
  pieces += ["<|startoftext|>", "<|endoftext|>"]
  return {piece: n for n, piece in enumerate(pieces)}, tuple(merges)


def edit_json(path, **changes):
  path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
