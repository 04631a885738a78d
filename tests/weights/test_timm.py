"""BiT networks under timm's names in ours, and ours under theirs.

The other side is written here in torch, module by module under those names: the
library timm is not installed for the tests.
"""

import collections
import json
import logging

import foreign
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic import paths
from basic.weights import _files, timm

FORMAT = timm.timm()
ROOT, CLASSES, NAME = 8, 5, "resnetv2_26x1_bit"


@pytest.fixture(autouse=True)
def small(monkeypatch):
  """A network that is too small for timm to have."""
  monkeypatch.setitem(timm.ARCHITECTURES, NAME, (26, ROOT / 64))
  monkeypatch.setitem(timm.STAGES, 26, (2, 2, 2, 2))


def reference(seed=0):
  """A pre-activation network: images [b 3 h w] -> (pooled, logits)."""
  foreign.library()
  import torch
  from torch import nn
  from torch.nn import functional

  class Standard(nn.Conv2d):
    def __init__(self, before, width, size, stride=1):
      super().__init__(before, width, size, stride, size // 2, bias=False)

    def forward(self, x):
      w = self.weight
      variance, mean = torch.var_mean(w, (1, 2, 3), False, keepdim=True)
      w = (w - mean) / (variance + 1e-8).sqrt()
      return functional.conv2d(x, w, None, self.stride, self.padding)

  class Norm(nn.GroupNorm):
    def __init__(self, width):
      # timm's have 32 groups, and 64 channels or more.
      super().__init__(min(32, width // 2), width)

    def forward(self, x):
      return super().forward(x).relu()

  class Block(nn.Module):
    def __init__(self, before, width, stride, first):
      super().__init__()
      self.downsample = None
      if first:
        self.downsample = nn.Sequential(collections.OrderedDict(
            conv=Standard(before, 4 * width, 1, stride)))
      self.norm1, self.conv1 = Norm(before), Standard(before, width, 1)
      self.norm2, self.conv2 = Norm(width), Standard(width, width, 3, stride)
      self.norm3, self.conv3 = Norm(width), Standard(width, 4 * width, 1)

    def forward(self, x):
      y = self.norm1(x)
      x = x if self.downsample is None else self.downsample(y)
      y = self.conv2(self.norm2(self.conv1(y)))
      return x + self.conv3(self.norm3(y))

  class Network(nn.Module):
    def __init__(self):
      super().__init__()
      self.stem = nn.Sequential(collections.OrderedDict(
          conv=Standard(3, ROOT, 7, 2), pad=nn.ConstantPad2d(1, 0.0),
          pool=nn.MaxPool2d(3, 2)))
      before, stages = ROOT, []
      for n in range(4):
        width, stride = ROOT * 2**n, 2 if n else 1
        blocks = [Block(before, width, stride, True),
                  Block(4 * width, width, 1, False)]
        before = 4 * width
        stages.append(nn.Sequential(
            collections.OrderedDict(blocks=nn.Sequential(*blocks))))
      self.stages, self.norm = nn.Sequential(*stages), Norm(before)
      self.head = nn.Sequential(collections.OrderedDict(
          fc=nn.Conv2d(before, CLASSES, 1)))

    def forward(self, x):
      x = self.norm(self.stages(self.stem(x))).mean((2, 3), keepdim=True)
      return x.flatten(1), self.head(x).flatten(1)

  made = foreign.shake(Network(), seed)
  with torch.no_grad():
    for name, leaf in made.named_parameters():
      # As narrow as trained kernels are, where the 1e-8 is seen.
      if "conv" in name:
        leaf.mul_(3e-3)
  return made


def config(**changes):
  return {
      "architecture": NAME, "num_classes": CLASSES,
      "pretrained_cfg": {
          "input_size": [3, 64, 64], "interpolation": "bicubic",
          "crop_pct": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3, **changes,
      },
  }


def save(folder, made, known=None):
  tensors = {k: x.detach().numpy() for k, x in made.state_dict().items()}
  _files.save(folder / "model.safetensors", tensors)
  (folder / "config.json").write_text(json.dumps(known or config()))


def same(weights, made, side):
  import torch

  photos = foreign.photos(3, side, side)
  x = foreign.views(weights, image=photos)["image"]
  pixels = torch.tensor(photos / 127.5 - 1, dtype=torch.float32)
  with torch.no_grad():
    pooled, logits = (z.numpy() for z in made(pixels.permute(0, 3, 1, 2)))
  phi = weights.params.get("objective")
  return foreign.near(x, pooled) and (
      phi is None or foreign.near(x @ phi["kernel"] + phi["bias"], logits))


def shapes(settings):
  image = {"image": jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)}
  tree = foreign.towers(settings)
  return jax.eval_shape(tree.init, jax.random.key(0), image)


@pytest.mark.parametrize("side", [64, 75])
def test_their_weights_in_ours_see_alike(tmp_path, side):
  made = reference()
  save(tmp_path, made)
  weights = FORMAT.read(tmp_path)
  assert weights.settings["image"] == dict(
      name="resnet", depth=26, width=1 / 8, groups=32, epsilon=1e-8)
  assert weights.settings["objective"] == dict(
      name="classification", classes=CLASSES)
  assert weights.settings["augment"] == dict(
      size=64, crop="center", method="bicubic", offset="round")
  assert same(weights, made, side)
  found = paths.flatten({"image": weights.params["image"]})
  assert {k: x.shape for k, x in found.items()} == {
      k: x.shape for k, x in paths.flatten(shapes(weights.settings)).items()}


def test_what_is_added_to_a_variance_is_seen(tmp_path):
  made = reference()
  save(tmp_path, made)
  weights = FORMAT.read(tmp_path)
  image = {**weights.settings["image"], "epsilon": 1e-7}
  with pytest.raises(AssertionError):
    same(weights._replace(settings={**weights.settings, "image": image}),
         made, 64)


@pytest.mark.parametrize("side", [64, 75])
def test_our_weights_in_theirs_see_alike(tmp_path, side):
  made = reference()
  import torch  # there, or skipped above

  save(tmp_path, made)
  weights = FORMAT.read(tmp_path)
  phi = weights.params["objective"]
  params = {**foreign.redraw(shapes(weights.settings), seed=1),
            "objective": {k: 2 * x for k, x in phi.items()}}
  weights = weights._replace(params=params)
  FORMAT.write(tmp_path / "ours", *weights)
  written = _files.tensors(tmp_path / "ours")
  made.load_state_dict({k: torch.tensor(x) for k, x in written.items()})
  assert same(weights, made, side)
  again = FORMAT.read(tmp_path / "ours")
  assert again.settings == weights.settings
  assert again.preprocessing == weights.preprocessing
  for path, leaf in paths.flatten(params).items():
    np.testing.assert_array_equal(
        paths.flatten(again.params)[path], leaf, err_msg=path)


def drawn(tmp_path):
  """Weights of our own, written and read, without torch."""
  settings = {
      "image": dict(name="resnet", depth=26, width=1 / 8, groups=32,
                    epsilon=1e-8, stochastic_depth=0.1),
      "projection": {"width": None, "bias": False, "only": None},
      "objective": {"name": "softmax"},
  }
  plain = {k: v for k, v in settings.items() if k != "objective"}
  params = foreign.redraw(shapes(plain))
  pixels = {"size": 64, "crop": "none", "method": "bilinear",
            "mean": (0.5,) * 3, "std": (0.5,) * 3}
  FORMAT.write(tmp_path, settings, params, None, pixels)
  return settings, params, pixels


def test_a_tower_without_classes_is_read_and_written(tmp_path):
  _, params, pixels = drawn(tmp_path)
  again = FORMAT.read(tmp_path)
  assert "objective" not in again.settings
  assert again.preprocessing == pixels
  assert again.params.keys() == {"image"}
  np.testing.assert_array_equal(
      again.params["image"]["encoder"]["root"]["kernel"],
      params["image"]["encoder"]["root"]["kernel"])


def test_what_has_no_place_is_named(tmp_path, caplog):
  settings, params, pixels = drawn(tmp_path)
  params = {**params, "text": {"encoder": {"vocabulary": np.zeros(3)}}}
  with caplog.at_level(logging.WARNING):
    FORMAT.write(tmp_path, settings, params, None, pixels)
  assert "left out: ['text/encoder']" in caplog.text


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("coatnet_0_rw_224", "its blocks pool, squeeze and activate in other"),
        ("resnetv2_50d_gn", "batch normalisation or a stem of three"),
        ("resnet50", "normalised by batch statistics after each convolution"),
        ("swin_tiny", "no encoder of ours computes what it does"),
        (None, "architecture is None"),
    ],
)
def test_other_networks_are_refused_with_what_sets_them_apart(
    tmp_path, name, why
):
  known = {**config(), "architecture": name}
  (tmp_path / "config.json").write_text(json.dumps(known))
  with pytest.raises(ValueError, match=why) as caught:
    FORMAT.read(tmp_path)
  assert "read are resnetv2_50x1_bit" in str(caught.value)


def test_a_network_that_was_changed_is_refused(tmp_path):
  known = {**config(), "model_args": {"stem_type": "same"}}
  (tmp_path / "config.json").write_text(json.dumps(known))
  with pytest.raises(ValueError, match=r"model_args is.*changes the network"):
    FORMAT.read(tmp_path)


def test_pixels_that_ours_cannot_make_are_refused(tmp_path):
  drawn(tmp_path)
  known = config(
      mean=[0.485, 0.456, 0.406], input_size=[3, 64, 32], crop_mode="border",
      interpolation="lanczos")
  (tmp_path / "config.json").write_text(json.dumps(known))
  with pytest.raises(ValueError) as caught:
    FORMAT.read(tmp_path)
  for part in ("mean is [0.485, 0.456, 0.406]", "zeros pad", "64 by 32",
               "'border'", "'lanczos'"):
    assert part in str(caught.value)


def test_a_crop_of_a_larger_image_is_said(tmp_path, caplog):
  drawn(tmp_path)
  (tmp_path / "config.json").write_text(json.dumps(config(crop_pct=0.875)))
  with caplog.at_level(logging.WARNING):
    FORMAT.read(tmp_path)
  assert "crop_pct is 0.875" in caplog.text


def test_what_is_missing_left_over_or_misshapen_is_listed(tmp_path):
  drawn(tmp_path)
  found = _files.tensors(tmp_path)
  del found["stages.3.blocks.1.norm3.bias"]
  found["stages.0.blocks.2.conv1.weight"] = np.zeros((2, 2), np.float32)
  found["norm.weight"] = np.zeros(3, np.float32)
  _files.save(tmp_path / "model.safetensors", found)
  with pytest.raises(ValueError) as caught:
    FORMAT.read(tmp_path)
  for part in ("missing: stages.3.blocks.1.norm3.bias [64]",
               "left over: stages.0.blocks.2.conv1.weight [2, 2]",
               "norm.weight is [3], expected [256]"):
    assert part in str(caught.value)


def test_towers_of_another_kind_are_refused_with_all_reasons(tmp_path):
  settings, params, pixels = drawn(tmp_path)
  image = {**settings["image"], "epsilon": 1e-5, "groups": 16, "width": 0.5}
  changed = {
      **settings, "image": image, "objective": {"name": "classification"},
      "projection": {"width": 8, "bias": False, "only": None},
  }
  with pytest.raises(ValueError) as caught:
    FORMAT.write(
        tmp_path, changed, params, None, {**pixels, "mean": (0.4, 0.4, 0.4)})
  for part in ("image.epsilon is 1e-05", "image.groups is 16",
               "image.depth is 26 and image.width 0.5", "projection.width is 8",
               "images have mean (0.4, 0.4, 0.4)"):
    assert part in str(caught.value)
  with pytest.raises(ValueError, match=r"image\.name is 'vit'"):
    FORMAT.write(
        tmp_path, {**settings, "image": {"name": "vit"}}, params, None, pixels)


def test_a_pickle_is_refused_with_the_reason(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps(config()))
  (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
  with pytest.raises(ValueError, match=r"run any code.*save_file"):
    FORMAT.read(tmp_path)
