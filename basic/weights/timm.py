"""timm folders of BiT residual networks.

Only these compute the same as an encoder of this library. Of the others:

- `coatnet_*_rw*` have a stem of two widths and SiLU in their bottlenecks, whose
  projections have, in most, no bias and whose pre-norm is activated; where a
  stage begins, most average and ours takes the maximum. `coatnet_rmlp_*` bias
  attention by a perceptron instead of a table.
- `coatnet_0` to `coatnet_5` follow the paper in another reading, and have no
  published weights: they average where ours take the maximum, squeeze to a
  quarter of the output's width, by SiLU, pad strided convolutions on both
  sides, use the exact GELU, and norm after the mean.
- `resnetv2_50`, `_101`, ... have batch normalisation or a stem of three
  convolutions; `resnet50` and all that torchvision has are normalised by batch
  statistics after each convolution, in blocks that activate the sum.

`clip_resnet` is read from the folders of open_clip.
"""

import logging
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from basic import paths, types
from basic.data import vocabulary
from basic.weights import _files, _format, _table

Row = _table.Row

# architecture -> depth, width.
ARCHITECTURES = {
    f"resnetv2_{depth}x{width}_bit": (depth, float(width))
    for depth, width in (
        (50, 1), (50, 3), (101, 1), (101, 3), (152, 2), (152, 4)
    )
}
STAGES = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# Settings that all towers of this format share.
IMAGE = dict(name="resnet", groups=32, epsilon=1e-8)

_OTHERS = (
    ("coatnet_|coatnext_|maxvit_|maxxvit", "its blocks pool, squeeze and "
     "activate in other ways than our coatnet"),
    ("resnetv2_", "it has batch normalisation or a stem of three convolutions, "
     "and our resnet is the one of BiT, resnetv2_50x1_bit and its like"),
    ("resnet|resnext|wide_resnet", "it is normalised by batch statistics after "
     "each convolution, and our resnet by groups of channels before it"),
)
_log = logging.getLogger(__name__)


def timm() -> _format.Format:
  """Reads and writes timm folders of `resnetv2_50x1_bit` and similar networks.

  A folder has config.json and model.safetensors: an image tower, and perhaps a
  head for classes, which is our objective `classification`. Other networks
  of timm are refused with the difference.

  Returns:
    A format whose paths are folders. It writes the image tower, with the head
    where the objective is `classification`; text tower and
    projections are left out with a warning.
  """
  return _format.Format(_read, _write)


def _read(path: str | os.PathLike) -> _format.Weights:
  folder = pathlib.Path(path)
  _files.check_kind(folder)
  config = _files.read_json(folder / "config.json")
  depth, width = _known(config)
  tensors = _files.tensors(folder)
  classes = 0
  if "head.fc.weight" in tensors:
    classes = len(tensors["head.fc.weight"])
  flat = _table.read(_tables(depth, width, 3, classes), tensors)
  pixels = _pixels(config.get("pretrained_cfg") or {})
  settings: dict[str, Any] = {
      "image": {**IMAGE, "depth": depth, "width": width},
      "projection": {"width": None, "bias": False, "only": None},
      "augment": _format.augment(pixels),
  }
  if classes:
    settings["objective"] = {"name": "classification", "classes": classes}
  return _format.Weights(settings, paths.unflatten(flat), None, pixels)


def _known(config: Mapping[str, Any]) -> tuple[int, float]:
  """(depth, width) of a supported architecture; ValueError for others."""
  name = config.get("architecture")
  if not isinstance(name, str) or name not in ARCHITECTURES:
    reasons = (why for start, why in _OTHERS if re.match(start, str(name)))
    why = next(reasons, "no encoder of ours computes what it does")
    raise ValueError(
        f"architecture is {name!r}: {why}; read are {', '.join(ARCHITECTURES)}"
    )
  if config.get("model_args"):
    raise ValueError(
        f"model_args is {config['model_args']}: this changes the network from "
        f"what {name} is, and only that is read"
    )
  return ARCHITECTURES[name]


def _pixels(config: Any) -> dict[str, Any]:
  """The preprocessing of a `pretrained_cfg`, as settings of images.augment."""
  if not isinstance(config, Mapping):
    raise ValueError(f"pretrained_cfg is {config!r}, expected a JSON object")
  sizes = config.get("input_size", (3, 224, 224))
  if not isinstance(sizes, list | tuple) or len(sizes) != 3 or (
      _format.not_sizes("input_size", dict(zip("chw", sizes, strict=True)),
                        ("c", "h", "w"))):
    raise ValueError(
        f"pretrained_cfg.input_size is {sizes!r}, expected channels, height "
        "and width, whole numbers above 0"
    )
  _, height, width = sizes
  method = config.get("interpolation", "bilinear")
  crop, share = config.get("crop_mode", "center"), config.get("crop_pct", 0.875)
  faults = [
      f"{name} is {found!r}, ours is {list(_format.PLAIN[name])}: zeros pad "
      "the image, and stand for that colour"
      for name in ("mean", "std")
      if (found := config.get(name, _format.PLAIN[name]))
      not in (_format.PLAIN[name], list(_format.PLAIN[name]))
  ]
  if height != width:
    faults.append(f"input_size is {height} by {width}, ours are square")
  if method not in ("bilinear", "bicubic"):
    faults.append(
        f"interpolation is {method!r}, ours are 'bilinear' and 'bicubic'"
    )
  if crop not in ("center", "squash"):
    faults.append(f"crop_mode is {crop!r}, ours are 'center' and 'squash'")
  _format.refuse("the preprocessing of pretrained_cfg is not one of ours", faults)
  if crop == "center" and share != 1:
    _log.warning(
        "crop_pct is %s: images were scaled larger and only that share of the "
        "middle was kept; ours keep all of the shorter side", share,
    )
  return {
      "size": width, "crop": "center" if crop == "center" else "none",
      "method": method, **_format.offset(crop == "center", "round"),
      **_format.PLAIN,
  }


def _write(
    path: str | os.PathLike,
    settings: _format.Settings,
    params: types.Params,
    words: vocabulary.Vocabulary | None,
    pixels: _format.Settings,
) -> None:
  del words  # the format cannot represent them
  _format.warn_of_offset(pixels, "round")
  image = settings["image"]
  labelled = settings["objective"]["name"] == "classification"
  _refuse(settings, pixels, labelled)
  flat = paths.flatten(params)
  kept = {
      k: x for k, x in flat.items()
      if k.startswith("image/encoder/") or (labelled and "objective/" in k)
  }
  if left := sorted({k.rsplit("/", 1)[0] for k in flat.keys() - kept.keys()}):
    _log.warning("the format has an image tower; left out: %s", left)
  classes = kept["objective/bias"].shape[0] if labelled else 0
  channels = kept["image/encoder/root/kernel"].shape[2]
  tables = _tables(image["depth"], float(image["width"]), channels, classes)
  folder, side = pathlib.Path(path), pixels["size"]
  _files.write_json(folder / "config.json", {
      "architecture": _name(image), "num_classes": classes,
      "num_features": round(2048 * image["width"]), "global_pool": "avg",
      "pretrained_cfg": {
          "input_size": [channels, side, side], "fixed_input_size": False,
          "num_classes": classes, "crop_pct": 1.0,
          "crop_mode": "squash" if pixels["crop"] == "none" else "center",
          "interpolation": pixels["method"], "mean": list(pixels["mean"]),
          "std": list(pixels["std"]), "pool_size": [-(-side // 32)] * 2,
          "first_conv": "stem.conv", "classifier": "head.fc",
      },
  })
  _files.save(folder / "model.safetensors", _table.write(tables, kept))


def _refuse(
    settings: _format.Settings, pixels: _format.Settings, labelled: bool
) -> None:
  image = settings["image"]
  faults = _format.expect("image", image, IMAGE)
  if image is not None and image["name"] == "resnet" and _name(image) is None:
    faults.append(
        f"image.depth is {image['depth']} and image.width {image['width']}, "
        f"the format has {', '.join(ARCHITECTURES)}"
    )
  if labelled:
    faults += _format.expect(
        "projection", settings["projection"], {"width": None}
    )
  faults += [
      f"images have {name} {tuple(pixels[name])}, the format's networks "
      f"{_format.PLAIN[name]}"
      for name in ("mean", "std") if tuple(pixels[name]) != _format.PLAIN[name]
  ]
  _format.refuse("the format cannot express this tower", faults)


def _name(image: Mapping[str, Any]) -> str | None:
  """The name of the architecture with these settings; None if there is none."""
  sizes = (image["depth"], image["width"])
  return next((k for k, x in ARCHITECTURES.items() if x == sizes), None)


def _tables(
    depth: int, width: float, channels: int, classes: int
) -> tuple[_table.Table, ...]:
  """Tensor names and parameter paths, a table for each stage."""
  ours, root = "image/encoder", round(64 * width)
  wide = 32 * root
  rows = (
      Row("stem.conv.weight", f"{root} {channels} 7 7", f"{ours}/root/kernel",
          "patches"),
      *_norm("norm", f"{ours}/norm", wide),
  )
  if classes:
    rows += (
        Row("head.fc.weight", f"{classes} {wide} 1 1", "objective/kernel",
            "one_pixel"),
        Row("head.fc.bias", f"{classes}", "objective/bias"),
    )
  found, before = [_table.Table(rows, {})], root
  for n, length in enumerate(STAGES[depth]):
    narrow = root * 2**n
    first, blocks = (f"{ours}/stage{n + 1}/{x}" for x in ("first", "blocks"))
    theirs = f"stages.{n}.blocks"
    rest = _block(f"{theirs}.{{l}}", blocks, 4 * narrow, narrow)
    found.append(_table.Table((
        *_block(f"{theirs}.0", first, before, narrow),
        Row(f"{theirs}.0.downsample.conv.weight", f"{4 * narrow} {before} 1 1",
            f"{first}/shortcut/kernel", "patches"),
        # The first block is separate here, so the stack begins with block 1.
        *(row._replace(start=1) for row in rest),
    ), {"l": length - 1}))
    before = 4 * narrow
  return tuple(found)


def _block(theirs: str, ours: str, before: int, narrow: int) -> tuple[Row, ...]:
  shapes = (
      (narrow, before, 1), (narrow, narrow, 3), (4 * narrow, narrow, 1)
  )
  return tuple(
      row for n, (out, wide, side) in enumerate(shapes, start=1) for row in (
          *_norm(f"{theirs}.norm{n}", f"{ours}/norm{n}", wide),
          Row(f"{theirs}.conv{n}.weight", f"{out} {wide} {side} {side}",
              f"{ours}/convolution{n}/kernel", "patches"),
      )
  )


def _norm(theirs: str, ours: str, width: int) -> tuple[Row, ...]:
  return (
      Row(f"{theirs}.weight", f"{width}", f"{ours}/scale"),
      Row(f"{theirs}.bias", f"{width}", f"{ours}/bias"),
  )
