"""CLIP's residual network under OpenAI's names in ours, and ours under theirs.

The other side is written here in torch, from the paper's account of it, under
those names. Its batch normalisation has gathered statistics of a few images.
"""

import collections
import json

import foreign
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_open_clip as clip

from basic import paths, types
from basic.experiment import pretrained
from basic.weights import _files

FORMAT = clip.FORMAT
LAYERS, WIDTH, HEADS = (2, 1, 1, 3), 4, 8


def visual(side):
  """Makes a residual network for images of this side."""
  import torch
  from torch import nn

  def convolution(before, width, size, stride=1):
    return nn.Conv2d(
        before, width, size, stride, padding=size // 2, bias=False)

  class Block(nn.Module):
    def __init__(self, before, width, stride):
      super().__init__()
      shapes = (before, width, 1), (width, width, 3), (width, 4 * width, 1)
      for n, shape in enumerate(shapes, start=1):
        setattr(self, f"conv{n}", convolution(*shape))
        setattr(self, f"bn{n}", nn.BatchNorm2d(shape[1]))
      self.pool = nn.AvgPool2d(stride)
      self.downsample = None
      if stride > 1 or before != 4 * width:
        self.downsample = nn.Sequential(collections.OrderedDict([
            ("-1", nn.AvgPool2d(stride)),
            ("0", convolution(before, 4 * width, 1)),
            ("1", nn.BatchNorm2d(4 * width)),
        ]))

    def forward(self, x):
      y = self.bn1(self.conv1(x)).relu()
      y = self.pool(self.bn2(self.conv2(y)).relu())
      y = self.bn3(self.conv3(y))
      return (y + (x if self.downsample is None else self.downsample(x))).relu()

  class Pool(nn.Module):
    def __init__(self, width):
      super().__init__()
      self.positional_embedding = nn.Parameter(
          torch.zeros((side // 32) ** 2 + 1, width))
      for name in "qkv":
        setattr(self, f"{name}_proj", nn.Linear(width, width))
      self.c_proj = nn.Linear(width, clip.EMBED)

    def forward(self, x):
      x = x.flatten(2).transpose(1, 2)
      x = torch.cat([x.mean(1, keepdim=True), x], 1)
      x = x + self.positional_embedding
      q, k, v = (
          getattr(self, f"{name}_proj")(x).unflatten(2, (HEADS, -1))
          for name in "qkv"
      )
      logits = torch.einsum("bkd,bnkd->bkn", q[:, 0], k)
      weights = (logits / q.shape[-1] ** 0.5).softmax(-1)
      return self.c_proj(torch.einsum("bkn,bnkd->bkd", weights, v).flatten(1))

  class Residual(nn.Module):
    def __init__(self):
      super().__init__()
      half = WIDTH // 2
      shapes = (3, half, 3, 2), (half, half, 3), (half, WIDTH, 3)
      for n, shape in enumerate(shapes, start=1):
        setattr(self, f"conv{n}", convolution(*shape))
        setattr(self, f"bn{n}", nn.BatchNorm2d(shape[1]))
      before = WIDTH
      for n, length in enumerate(LAYERS):
        width, blocks = WIDTH * 2**n, []
        for stride in (2 if n else 1, *(1,) * (length - 1)):
          blocks.append(Block(before, width, stride))
          before = 4 * width
        setattr(self, f"layer{n + 1}", nn.Sequential(*blocks))
      self.attnpool = Pool(before)

    def forward(self, x):
      for n in range(1, 4):
        norm = getattr(self, f"bn{n}")
        x = norm(getattr(self, f"conv{n}")(x)).relu()
      x = nn.functional.avg_pool2d(x, 2)
      for n in range(1, 5):
        x = getattr(self, f"layer{n}")(x)
      return self.attnpool(x)

  return Residual


def theirs(side):
  foreign.library()
  import torch

  made = clip.reference(side, visual=visual(side))
  pixels = foreign.photos(9, side, side, seed=1).transpose(0, 3, 1, 2) / 255
  with torch.no_grad():
    for module in made.modules():
      if isinstance(module, torch.nn.BatchNorm2d):
        module.weight.add_(1.0)
        module.momentum = 1.0
    made.visual.train()(torch.tensor(pixels, dtype=torch.float32))
  return made.eval()


def config(side):
  known = clip.config(side)
  known["model_cfg"]["vision_cfg"] = {
      "image_size": side, "layers": list(LAYERS), "width": WIDTH,
      "patch_size": None, "head_width": 32 * WIDTH // HEADS,
  }
  return known


def shapes(settings, side):
  tree = foreign.towers(settings)
  return jax.eval_shape(tree.init, jax.random.key(0), {
      "image": jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),
      "text": jax.ShapeDtypeStruct((1, clip.LENGTH), jnp.int32),
  })


@pytest.mark.parametrize("side", [32, 96])
def test_their_weights_in_ours_embed_alike(tmp_path, side):
  made = theirs(side)
  clip.save(tmp_path, made, config(side))
  weights = FORMAT.read(tmp_path)
  assert weights.settings["image"] == dict(
      name="clip_resnet", depths=LAYERS, width=WIDTH, heads=HEADS,
      features=clip.EMBED)
  assert weights.settings["projection"]["only"] == ("text",)
  assert clip.same(weights, made, side)
  # Every parameter of ours, and no other, is there.
  known = paths.flatten(shapes(weights.settings, side))
  found = paths.flatten({k: weights.params[k] for k in ("image", "text")})
  assert {k: x.shape for k, x in found.items()} == {
      k: x.shape for k, x in known.items()}


def test_the_colour_of_the_border_is_not_forgotten(tmp_path):
  made = theirs(32)
  clip.save(tmp_path, made, config(32))
  weights = FORMAT.read(tmp_path)
  stem = weights.params["image"]["encoder"]["stem"]
  np.testing.assert_allclose(stem["mean"], 2 * np.array(clip.MEAN) - 1)
  stem["mean"] = np.zeros_like(stem["mean"])
  with pytest.raises(AssertionError):
    clip.same(weights, made, 32)


@pytest.mark.parametrize("side", [32, 96])
def test_our_weights_in_theirs_embed_alike(tmp_path, side):
  made = theirs(side)
  import torch  # there, or skipped above

  clip.save(tmp_path, made, config(side))
  weights = FORMAT.read(tmp_path)
  params = foreign.redraw(shapes(weights.settings, side), seed=1)
  weights = weights._replace(
      params={**params, "objective": {"log_scale": np.float32(1.5)}})
  FORMAT.write(tmp_path / "ours", *weights)
  written = _files.tensors(tmp_path / "ours" / "open_clip_model.safetensors")
  # Strict: every name of theirs, the counters of batches too, and no other.
  made.load_state_dict({k: torch.tensor(x) for k, x in written.items()})
  again = FORMAT.read(tmp_path / "ours")
  assert again.settings == weights.settings
  # The mean is now the one that our tower subtracts.
  assert clip.same(
      weights._replace(preprocessing=again.preprocessing), made, side)
  assert clip.same(again, made, side)


def test_what_was_read_is_written_back(tmp_path):
  clip.save(tmp_path, theirs(32), config(32))
  weights = FORMAT.read(tmp_path)
  FORMAT.write(tmp_path / "ours", *weights)
  again = FORMAT.read(tmp_path / "ours")
  assert again.preprocessing == weights.preprocessing
  one, two = (paths.flatten(w.params) for w in (weights, again))
  for path, leaf in one.items():
    # The first kernel is divided by the deviation of pixels, and multiplied.
    np.testing.assert_allclose(two[path], leaf, rtol=1e-6, err_msg=path)
  known = [
      json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
      for folder in (tmp_path, tmp_path / "ours")
  ]
  assert known[0]["vision_cfg"] == known[1]["vision_cfg"]


def test_places_are_resized_as_torch_would(tmp_path):
  made, larger = theirs(64), theirs(96)
  import torch

  clip.save(tmp_path, made, config(64))
  weights = FORMAT.read(tmp_path)
  known = made.state_dict()
  name = "visual.attnpool.positional_embedding"
  grid = known[name][1:].reshape(1, 2, 2, -1).permute(0, 3, 1, 2)
  grid = torch.nn.functional.interpolate(grid, (3, 3), mode="bilinear")
  places = grid.permute(0, 2, 3, 1).reshape(9, -1)
  larger.load_state_dict(
      {**known, name: torch.cat([known[name][:1], places])})
  assert clip.same(weights, larger, 96)


def test_a_run_at_another_size_resizes_the_places(tmp_path):
  clip.save(tmp_path, theirs(96), config(96))
  settings = FORMAT.read(tmp_path).settings
  fresh = {
      **foreign.redraw(shapes(settings, 64)),
      "objective": {"log_scale": np.float32(0)},
  }
  state = types.TrainState(
      0, jax.tree.map(jnp.asarray, fresh), None, (), None)
  # Sizes said by no name: they are compared where they show, in the shapes.
  config_ = {
      **settings, "image": {**settings["image"], "depths": None},
      "weights": dict(name="open_clip", path=str(tmp_path), paths=(".*",)),
  }
  found = pretrained.begin(state, config_).params["image"]["encoder"]["pool"]
  assert found["positions"].shape == (2, 2, 32 * WIDTH)


def test_what_is_missing_left_over_or_misshapen_is_listed(tmp_path):
  made = theirs(32)
  clip.save(tmp_path, made, config(32))
  file = tmp_path / "open_clip_model.safetensors"
  found = _files.tensors(file)
  del found["visual.layer4.2.bn1.running_var"]
  found["visual.layer1.2.conv1.weight"] = np.zeros((2, 2), np.float32)
  found["visual.attnpool.c_proj.bias"] = np.zeros(3, np.float32)
  _files.save(file, found)
  with pytest.raises(ValueError) as caught:
    FORMAT.read(tmp_path)
  for part in ("missing: visual.layer4.2.bn1.running_var [32]",
               "left over: visual.layer1.2.conv1.weight [2, 2]",
               "visual.attnpool.c_proj.bias is [3], expected [6]"):
    assert part in str(caught.value)


def test_other_networks_are_refused_by_their_settings(tmp_path):
  known = config(32)
  known["model_cfg"]["vision_cfg"].update(
      layers=[1, 2, 3], patch_size=32, mlp_ratio=4.0)
  (tmp_path / "open_clip_config.json").write_text(json.dumps(known))
  with pytest.raises(ValueError) as caught:
    FORMAT.read(tmp_path)
  for part in ("layers is [1, 2, 3], expected 4", "patch_size is 32",
               "mlp_ratio is 4.0"):
    assert part in str(caught.value)


def test_what_the_format_cannot_say_is_refused(tmp_path):
  clip.save(tmp_path, theirs(32), config(32))
  weights = FORMAT.read(tmp_path)
  settings = {
      **weights.settings, "projection": {"width": 9, "bias": True, "only": None}}
  with pytest.raises(ValueError) as caught:
    FORMAT.write(tmp_path / "ours", *weights._replace(settings=settings))
  for part in ("projection.bias is True",
               "projection.only is None, the format has ('text',)"):
    assert part in str(caught.value)
  settings["projection"] = {"width": 9, "bias": False, "only": ("text",)}
  with pytest.raises(ValueError, match=r"features is 6 and projection.width 9"):
    FORMAT.write(tmp_path / "ours", *weights._replace(settings=settings))
  encoder = weights.params["image"]["encoder"]
  pool = {**encoder["pool"], "positions": np.zeros((1, 2, 128), np.float32)}
  params = {**weights.params, "image": {"encoder": {**encoder, "pool": pool}}}
  with pytest.raises(ValueError, match="grid of 1 by 2"):
    FORMAT.write(tmp_path / "ours", *weights._replace(params=params))


def test_a_pickle_is_refused_with_the_reason(tmp_path):
  (tmp_path / "RN50.pt").write_bytes(b"\x80\x04.")
  with pytest.raises(ValueError, match=r"run any code.*save_file"):
    FORMAT.read(tmp_path / "RN50.pt")
