"""`.npz` files of big_vision's two towers, such as SigLIP."""

import io
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from basic import files, paths, types
from basic.data import vocabulary
from basic.weights import _format, _npz, _table

Row = _table.Row

# Settings that all towers of this format share.
_BOTH = dict(activation="gelu_tanh", epsilon=1e-6, positions="learned")
IMAGE = dict(
    _BOTH, name="vit", stem="patch", pool="attention", entry_norm=False,
)
TEXT = dict(
    _BOTH, name="text_transformer", causal=False, pool="last", padding="read",
)


def big_vision() -> _format.Format:
  """Reads and writes the towers that big_vision trains with the sigmoid loss.

  One file, `params/img/...`, `params/txt/...`, `params/t` and `params/b`, with
  or without the prefix `params/`, blocks separate or stacked. All sizes follow from
  the arrays. The file has neither vocabulary nor preprocessing. A run that uses the
  text tower sets `tokenizer.model` to the vocabulary: a tokenizer.json, or the
  SentencePiece model with {"pad_token": "</s>", "tokenizer_class":
  "SiglipTokenizer"} in a tokenizer_config.json beside it. Images are
  assumed to be resized to the tower's size without keeping the aspect ratio, by
  bilinear interpolation; set `augment` to the same.

  Returns:
    A format whose paths are files. It writes separate blocks, like the published files.
  """
  return _format.Format(_read, _write)


def _read(path: str | os.PathLike) -> _format.Weights:
  tensors = _apart(_load(pathlib.Path(path)))
  settings, grid = _settings(tensors)
  channels = tensors["img/embedding/kernel"].shape[2]
  flat = _table.read(_tables(settings, grid, channels), tensors)
  places = flat["image/encoder/positions"]
  flat["image/encoder/positions"] = places.reshape(grid, grid, -1)
  flat["text/encoder/positions"] = flat["text/encoder/positions"][0]
  pixels = {
      "size": grid * settings["image"]["patch"], "crop": "none",
      "method": "bilinear", **_format.PLAIN,
  }
  settings["augment"] = _format.augment(pixels)
  settings["objective"] = {
      "name": "sigmoid", "scale": _format.scale(flat["objective/log_scale"], "t"),
      "bias": float(flat["objective/bias"]),
  }
  return _format.Weights(settings, paths.unflatten(flat), None, pixels)


def _write(
    path: str | os.PathLike,
    settings: _format.Settings,
    params: types.Params,
    words: vocabulary.Vocabulary | None,
    pixels: _format.Settings,
) -> None:
  del words  # the file cannot represent them
  faults = [
      *_format.expect("image", settings["image"], IMAGE),
      *_format.expect("text", settings["text"], TEXT),
      *_format.expect("projection", settings["projection"], {"bias": True}),
      *_format.expect("objective", settings["objective"], {"name": "sigmoid"}),
  ]
  only = tuple(settings["projection"].get("only") or ())
  if only != ("text",):
    faults.append(f"projection.only is {only}, the format has ('text',)")
  _format.refuse("the format cannot express these towers", faults)
  flat = {k: np.asarray(x) for k, x in paths.flatten(params).items()}
  stem = "image/encoder/stem"
  # The towers of this format take values in [-1, 1].
  del pixels
  height, width, features = flat["image/encoder/positions"].shape
  _format.refuse("the format has square images", [
      f"positions are learned on {height} by {width} patches"
  ] if height != width else [])
  flat["image/encoder/positions"] = (
      flat["image/encoder/positions"].reshape(1, -1, features))
  flat["text/encoder/positions"] = flat["text/encoder/positions"][None]
  settings = {
      "image": _sizes_of(flat, "image", patch=flat[f"{stem}/kernel"].shape[0]),
      "text": _sizes_of(
          flat, "text", vocab=flat["text/encoder/vocabulary"].shape[0],
          length=flat["text/encoder/positions"].shape[1]),
      "projection": {"width": flat["text/projection/bias"].shape[0]},
  }
  channels = flat[f"{stem}/kernel"].shape[2]
  made = _table.write(_tables(settings, height, channels), flat)
  arrays: dict[str, Any] = {f"params/{name}": x for name, x in made.items()}
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)
  files.replace(path, buffer.getvalue())


def _load(path: pathlib.Path) -> dict[str, np.ndarray]:
  found = _npz.arrays(path)
  return {name.removeprefix("params/"): x for name, x in found.items()}


def _apart(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Unstacks blocks, as the table expects."""
  found = {}
  for name, tensor in tensors.items():
    if "/encoderblock/" not in name:
      found[name] = tensor
      continue
    for n, part in enumerate(np.atleast_1d(tensor)):
      found[name.replace("/encoderblock/", f"/encoderblock_{n}/")] = part
  return found


def _settings(tensors) -> tuple[dict[str, Any], int]:
  """Settings derived from the arrays, and patches along each side."""
  needed = {
      "img/embedding/kernel": 4, "img/pos_embedding": 3,
      "img/MAPHead_0/probe": 3, "txt/Embed_0/embedding": 2,
      "txt/pos_embedding": 3, "txt/head/kernel": 2,
      **{f"{x}/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel": 3
         for x in ("img/Transformer", "txt/Encoder_0")},
      **{f"{x}/encoderblock_0/MlpBlock_0/Dense_0/kernel": 2
         for x in ("img/Transformer", "txt/Encoder_0")},
  }
  _format.refuse("this is no file of two towers with a pooling head", [
      f"missing: {name}, an array of {axes} axes"
      for name, axes in needed.items()
      if name not in tensors or tensors[name].ndim != axes
  ])
  places = tensors["img/pos_embedding"].shape[1]
  grid = math.isqrt(places)
  _format.refuse("the image tower's positions are no square grid", [
      f"img/pos_embedding has {places} positions"
  ] if grid * grid != places else [])
  stem = tensors["img/embedding/kernel"]
  return {
      "image": {
          **IMAGE, **_sizes(tensors, "img/Transformer"), "patch": stem.shape[0],
      },
      "text": {
          **TEXT, **_sizes(tensors, "txt/Encoder_0"),
          "vocab": tensors["txt/Embed_0/embedding"].shape[0],
          "length": tensors["txt/pos_embedding"].shape[1],
      },
      "projection": {
          "width": tensors["txt/head/kernel"].shape[1], "bias": True,
          "only": ("text",),
      },
  }, grid


def _sizes(tensors, stack: str) -> dict[str, int]:
  block = f"{stack}/encoderblock_0"
  query = tensors[f"{block}/MultiHeadDotProductAttention_0/query/kernel"]
  depth = 0
  while any(k.startswith(f"{stack}/encoderblock_{depth}/") for k in tensors):
    depth += 1
  # A width of 0 would give no heads.
  return {
      "width": query.shape[0], "depth": depth, "heads": max(1, query.shape[1]),
      "mlp": tensors[f"{block}/MlpBlock_0/Dense_0/kernel"].shape[1],
  }


def _sizes_of(flat, tower: str, **more: int) -> dict[str, int]:
  block = f"{tower}/encoder/blocks"
  depth, width, heads, _ = flat[f"{block}/attention/query/kernel"].shape
  return {
      "depth": depth, "width": width, "heads": heads,
      "mlp": flat[f"{block}/mlp/in/kernel"].shape[2], **more,
  }


def _norm(theirs: str, ours: str) -> tuple[_table.Row, ...]:
  return (
      Row(f"{theirs}/scale", "d", f"{ours}/scale"),
      Row(f"{theirs}/bias", "d", f"{ours}/bias"),
  )


def _parts(theirs: str, ours: str) -> tuple[_table.Row, ...]:
  """The rows of attention and MLP, which have the layouts of Linen."""
  attention, mlp = f"{theirs}/MultiHeadDotProductAttention_0", "MlpBlock_0"
  return (
      *(
          Row(f"{attention}/{x}/{leaf}", shape, f"{ours}/attention/{x}/{leaf}")
          for x in ("query", "key", "value")
          for leaf, shape in (("kernel", "d k h"), ("bias", "k h"))
      ),
      Row(f"{attention}/out/kernel", "k h d", f"{ours}/attention/out/kernel"),
      Row(f"{attention}/out/bias", "d", f"{ours}/attention/out/bias"),
      Row(f"{theirs}/{mlp}/Dense_0/kernel", "d m", f"{ours}/mlp/in/kernel"),
      Row(f"{theirs}/{mlp}/Dense_0/bias", "m", f"{ours}/mlp/in/bias"),
      Row(f"{theirs}/{mlp}/Dense_1/kernel", "m d", f"{ours}/mlp/out/kernel"),
      Row(f"{theirs}/{mlp}/Dense_1/bias", "d", f"{ours}/mlp/out/bias"),
  )


def _blocks(theirs: str, ours: str) -> tuple[_table.Row, ...]:
  block = f"{theirs}/encoderblock_{{l}}"
  return (
      *_parts(block, f"{ours}/blocks"),
      *_norm(f"{block}/LayerNorm_0", f"{ours}/blocks/attention_norm"),
      *_norm(f"{block}/LayerNorm_1", f"{ours}/blocks/mlp_norm"),
      *_norm(f"{theirs}/encoder_norm", f"{ours}/norm"),
  )


def _tables(settings, grid, channels) -> tuple[_table.Table, ...]:
  image, text = settings["image"], settings["text"]
  pool = "image/encoder/pool"
  rows = (
      Row("img/embedding/kernel", "p p c d", "image/encoder/stem/kernel"),
      Row("img/embedding/bias", "d", "image/encoder/stem/bias"),
      Row("img/pos_embedding", "1 n d", "image/encoder/positions"),
      *_blocks("img/Transformer", "image/encoder"),
      Row("img/MAPHead_0/probe", "1 1 d", f"{pool}/probe", "vector"),
      *_parts("img/MAPHead_0", pool),
      *_norm("img/MAPHead_0/LayerNorm_0", f"{pool}/mlp_norm"),
      Row("t", "1", "objective/log_scale", "number"),
      Row("b", "1", "objective/bias", "number"),
  )
  words = (
      Row("txt/Embed_0/embedding", "v d", "text/encoder/vocabulary"),
      Row("txt/pos_embedding", "1 t d", "text/encoder/positions"),
      *_blocks("txt/Encoder_0", "text/encoder"),
      Row("txt/head/kernel", "d e", "text/projection/kernel"),
      Row("txt/head/bias", "e", "text/projection/bias"),
  )
  letters = [
      {"d": x["width"], "l": x["depth"], "k": x["heads"], "m": x["mlp"],
       "h": x["width"] // x["heads"]}
      for x in (image, text)
  ]
  return (
      _table.Table(rows, {
          **letters[0], "p": image["patch"], "n": grid * grid,
          "c": channels}),
      _table.Table(words, {
          **letters[1], "v": text["vocab"], "t": text["length"],
          "e": settings["projection"]["width"]}),
  )
