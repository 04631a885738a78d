"""OpenAI's tensor names of CLIP's residual network."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from basic.weights import _format, _table

Row = _table.Row
IMAGE = dict(name="clip_resnet")
# torch counts batches for the running statistics, which are frozen here.
COUNTER = ".num_batches_tracked"
_TOWER = "image/encoder"
_STEM = f"{_TOWER}/stem/convolution1/kernel"
_KNOWN = ("image_size", "layers", "width", "patch_size", "head_width")


def settings(known: Mapping[str, Any]) -> dict[str, Any]:
  """Settings of the tower, from open_clip's `vision_cfg` and `embed_dim`.

  Raises:
    ValueError: if the settings are those of another tower.
  """
  image = known["vision_cfg"]
  faults = [
      f"vision_cfg.{key} is {value!r}" for key, value in image.items()
      if key not in _KNOWN
  ]
  layers = image["layers"]
  if len(layers) != 4 or not all(type(n) is int and n > 0 for n in layers):
    faults.append(f"vision_cfg.layers is {layers}, expected 4 numbers above 0")
  if image.get("patch_size") is not None:
    faults.append(
        f"vision_cfg.patch_size is {image['patch_size']}, a residual network "
        "has no patches"
    )
  _format.refuse("these settings of open_clip mean other towers", faults)
  return {
      **IMAGE, "depths": tuple(layers), "width": image["width"],
      "heads": image["width"] * 32 // image.get("head_width", 64),
      "features": known["embed_dim"],
  }


def shaped(flat: Mapping[str, Any]) -> dict[str, Any]:
  """The sizes of the tower, from its parameters."""
  def depth(stage: int) -> int:
    path = f"{_TOWER}/stage{stage}/blocks/norm1/scale"
    return 1 + (flat[path].shape[0] if path in flat else 0)

  pool = f"{_TOWER}/pool/attention"
  return {
      "depths": tuple(depth(stage) for stage in range(1, 5)),
      "width": flat[f"{_TOWER}/stem/norm3/scale"].shape[0],
      "heads": flat[f"{pool}/query/kernel"].shape[1],
      "features": flat[f"{pool}/out/bias"].shape[0],
  }


def vision_config(image: Mapping[str, Any], size: int) -> dict[str, Any]:
  """The inverse of `settings`: open_clip's `vision_cfg`."""
  return {
      "image_size": size, "layers": list(image["depths"]),
      "width": image["width"], "patch_size": None,
      "head_width": 32 * image["width"] // image["heads"],
  }


def square(flat: Mapping[str, Any]) -> tuple[int, int]:
  """(positions along each side, channels of an image), from the parameters.

  Raises:
    ValueError: if its position embeddings are not a square grid.
  """
  height, width = flat[f"{_TOWER}/pool/positions"].shape[:2]
  _format.refuse("the format has square images", [
      f"position embeddings are learned on a grid of {height} by {width}"
  ] if height != width else [])
  return width, flat[_STEM].shape[2]


def to_ours(
    flat: Mapping[str, Any], grid: int, pixels: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  """Folds the pixel statistics into the stem, and splits the position embeddings.

      k * pad((x - m) / s)  =  k / (2 s) * pad((2 x - 1) - (2 m - 1))

  Zero padding represents the colour m, so the tower subtracts m before it pads; a
  bias would be wrong at the borders.

  Args:
    flat: by path, with "image/encoder/pool/table" [1 + grid^2, d], that of the
      mean token first.
    grid: positions along each side.
    pixels: `mean` and `std` of the stem's inputs.
  """
  flat = dict(flat)
  _format.check_channels(flat[_STEM], pixels["mean"], pixels["std"])
  table = flat.pop(f"{_TOWER}/pool/table")
  flat[f"{_TOWER}/pool/token"] = table[0]
  flat[f"{_TOWER}/pool/positions"] = table[1:].reshape(grid, grid, -1)
  flat[_STEM] = _scaled(flat[_STEM], pixels["std"], -1)
  mean = 2 * np.asarray(pixels["mean"], np.float64) - 1
  flat[f"{_TOWER}/stem/mean"] = mean.astype(np.float32)
  return flat


def to_theirs(
    flat: Mapping[str, Any], pixels: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  """The inverse of `to_ours`, except for the mean, which `pixels` returns."""
  flat = {k: np.asarray(x) for k, x in flat.items()}
  _format.check_channels(flat[_STEM], pixels["mean"], pixels["std"])
  del flat[f"{_TOWER}/stem/mean"]
  flat[_STEM] = _scaled(flat[_STEM], pixels["std"], 1)
  places = flat.pop(f"{_TOWER}/pool/positions")
  flat[f"{_TOWER}/pool/table"] = np.concatenate([
      flat.pop(f"{_TOWER}/pool/token")[None],
      places.reshape(-1, places.shape[2]),
  ])
  return flat


def pixels(
    flat: Mapping[str, Any], known: Mapping[str, Any]
) -> dict[str, Any]:
  """The preprocessing, with the mean that the tower subtracts."""
  mean = (np.asarray(flat[f"{_TOWER}/stem/mean"], np.float64) + 1) / 2
  # The shortest decimal of the float32: 0.48145466.
  return {**known, "mean": tuple(float(f"{x:.8g}") for x in mean)}


def without_counters(tensors: Mapping[str, Any]) -> dict[str, Any]:
  """The tensors without torch's batch counters."""
  return {k: x for k, x in tensors.items() if not k.endswith(COUNTER)}


def with_counters(tensors: Mapping[str, Any]) -> dict[str, Any]:
  """The tensors with the batch counters that torch expects."""
  heads = [
      name.removesuffix(".running_mean") for name in tensors
      if name.endswith(".running_mean")
  ]
  return {**tensors, **{f"{x}{COUNTER}": np.zeros((), int) for x in heads}}


def tables(
    image: Mapping[str, Any], grid: int, channels: int
) -> tuple[_table.Table, ...]:
  """Tensor names and parameter paths, a table for each stage."""
  width = image["width"]
  half, wide = width // 2, 32 * width
  stem = (
      *_convolution("visual", f"{_TOWER}/stem", 1, (half, channels, 3)),
      *_convolution("visual", f"{_TOWER}/stem", 2, (half, half, 3)),
      *_convolution("visual", f"{_TOWER}/stem", 3, (width, half, 3)),
  )
  found = [_table.Table((*stem, *_pool()), {
      "d": wide, "k": image["heads"], "e": image["features"],
      "n": 1 + grid * grid,
  })]
  before = width
  for n, depth in enumerate(image["depths"]):
    rows = _stage(n + 1, depth, before, width * 2**n)
    found.append(_table.Table(rows, {"l": depth - 1}))
    before = 4 * width * 2**n
  return tuple(found)


def _stage(n: int, depth: int, before: int, narrow: int) -> tuple[Row, ...]:
  theirs, ours, wide = f"visual.layer{n}", f"{_TOWER}/stage{n}", 4 * narrow
  rows = _block(f"{theirs}.0", f"{ours}/first", before, narrow)
  down = f"{theirs}.0.downsample"
  rows += (
      Row(f"{down}.0.weight", f"{wide} {before} 1 1",
          f"{ours}/first/shortcut/kernel", "patches"),
      *_norm(f"{down}.1", f"{ours}/first/shortcut_norm", wide),
  )
  if depth == 1:
    return rows
  # The first block is separate here, so the stack begins with block 1.
  rest = _block(f"{theirs}.{{l}}", f"{ours}/blocks", wide, narrow)
  return rows + tuple(row._replace(start=1) for row in rest)


def _block(theirs: str, ours: str, before: int, narrow: int) -> tuple[Row, ...]:
  return (
      *_convolution(theirs, ours, 1, (narrow, before, 1)),
      *_convolution(theirs, ours, 2, (narrow, narrow, 3)),
      *_convolution(theirs, ours, 3, (4 * narrow, narrow, 1)),
  )


def _convolution(
    theirs: str, ours: str, n: int, shape: tuple[int, int, int]
) -> tuple[Row, ...]:
  """The rows of a convolution [out in side side] and its norm."""
  width, before, side = shape
  return (
      Row(f"{theirs}.conv{n}.weight", f"{width} {before} {side} {side}",
          f"{ours}/convolution{n}/kernel", "patches"),
      *_norm(f"{theirs}.bn{n}", f"{ours}/norm{n}", width),
  )


def _norm(theirs: str, ours: str, width: int) -> tuple[Row, ...]:
  names = (
      ("weight", "scale"), ("bias", "bias"), ("running_mean", "mean"),
      ("running_var", "variance"),
  )
  return tuple(
      Row(f"{theirs}.{their}", f"{width}", f"{ours}/{our}")
      for their, our in names
  )


def _pool() -> tuple[Row, ...]:
  theirs, ours = "visual.attnpool", f"{_TOWER}/pool"
  names = (("q", "query"), ("k", "key"), ("v", "value"))
  leaves = (("weight", "d d", "kernel", "heads"),
            ("bias", "d", "bias", "head_bias"))
  return (
      Row(f"{theirs}.positional_embedding", "n d", f"{ours}/table"),
      *(
          Row(f"{theirs}.{x}_proj.{kind}", shape,
              f"{ours}/attention/{name}/{leaf}", layout)
          for x, name in names for kind, shape, leaf, layout in leaves
      ),
      Row(f"{theirs}.c_proj.weight", "e d", f"{ours}/attention/out/kernel",
          "joined"),
      Row(f"{theirs}.c_proj.bias", "e", f"{ours}/attention/out/bias"),
  )


def _scaled(kernel: np.ndarray, std: Any, power: int) -> np.ndarray:
  """The kernel times (2 std)^power, channel by channel of its input."""
  factor = (2 * np.asarray(std, np.float64)) ** power
  return (kernel * factor[:, None]).astype(np.float32)
