"""Common parts of `transformers` folders: tensors, tokenizers, preprocessing."""

import logging
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from basic.data import vocabulary
from basic.weights import _files, _format, _hf_config, _table

# Pillow's constants; images.resize explains the names.
METHODS = {2: "bilinear", 3: "bicubic", 4: "area"}
# Buffers that old versions wrote, which are no weights.
_BUFFERS = (".position_ids",)

_log = logging.getLogger(__name__)
Row = _table.Row


def blocks(theirs: str, ours: str) -> tuple[_table.Row, ...]:
  """The rows of a stack of pre-norm blocks.

  Args:
    theirs: the prefix of ".encoder.layers": "text_model".
    ours: path of the encoder: "text/encoder".
  """
  layer, block = f"{theirs}.encoder.layers.{{l}}", f"{ours}/blocks"
  return (
      *attention(f"{layer}.self_attn", f"{block}/attention", "_proj."),
      *mlp(f"{layer}.mlp", f"{block}/mlp"),
      *norm(f"{layer}.layer_norm1", f"{block}/attention_norm"),
      *norm(f"{layer}.layer_norm2", f"{block}/mlp_norm"),
  )


def attention(
    theirs: str, ours: str, between: str
) -> tuple[_table.Row, ...]:
  """The rows of attention.

  Args:
    theirs: the prefix of ".out_proj".
    ours: path of the attention.
    between: the part between "q" and "weight": "_proj.", or "_in_proj_" for
      the thirds of a fused projection.
  """
  return (
      *(
          Row(f"{theirs}.{x}{between}{kind}", shape, f"{ours}/{name}/{leaf}",
              layout)
          for x, name in (("q", "query"), ("k", "key"), ("v", "value"))
          for kind, shape, leaf, layout in (
              ("weight", "d d", "kernel", "heads"),
              ("bias", "d", "bias", "head_bias"),
          )
      ),
      Row(f"{theirs}.out_proj.weight", "d d", f"{ours}/out/kernel", "joined"),
      Row(f"{theirs}.out_proj.bias", "d", f"{ours}/out/bias"),
  )


def mlp(theirs: str, ours: str) -> tuple[_table.Row, ...]:
  """The rows of a two-layer perceptron."""
  return (
      Row(f"{theirs}.fc1.weight", "m d", f"{ours}/in/kernel", "linear"),
      Row(f"{theirs}.fc1.bias", "m", f"{ours}/in/bias"),
      Row(f"{theirs}.fc2.weight", "d m", f"{ours}/out/kernel", "linear"),
      Row(f"{theirs}.fc2.bias", "d", f"{ours}/out/bias"),
  )


def norm(theirs: str, ours: str) -> tuple[_table.Row, ...]:
  """The rows of a LayerNorm."""
  return (
      Row(f"{theirs}.weight", "d", f"{ours}/scale"),
      Row(f"{theirs}.bias", "d", f"{ours}/bias"),
  )


def text(ours: str) -> tuple[_table.Row, ...]:
  """The rows of a text tower, without its projection."""
  names = "text_model.embeddings"
  return (
      Row(f"{names}.token_embedding.weight", "v d", f"{ours}/vocabulary"),
      Row(f"{names}.position_embedding.weight", "t d", f"{ours}/positions"),
      *blocks("text_model", ours),
      *norm("text_model.final_layer_norm", f"{ours}/norm"),
  )


def sizes(tower: Mapping[str, Any], **more: int) -> dict[str, int]:
  """The sizes for `_table`, from the settings of an encoder."""
  return {
      "d": tower["width"], "l": tower["depth"], "k": tower["heads"],
      "m": tower["mlp"], **more,
  }


def shaped(
    settings: Mapping[str, Any], params: Mapping[str, Any], tower: str
) -> dict[str, Any]:
  """Settings of a tower, completed by the sizes of its parameters.

  A configuration may give sizes by the name of a variant, or leave them out.
  """
  def axis(path: str, number: int) -> int:
    return params[f"{tower}/encoder/{path}"].shape[number]

  return {
      **settings,
      "width": axis("blocks/attention/query/kernel", 1),
      "depth": axis("blocks/attention/query/kernel", 0),
      "heads": axis("blocks/attention/query/kernel", 2),
      "mlp": axis("blocks/mlp/in/kernel", 2),
      **({"patch": axis("stem/kernel", 0)} if tower == "image" else {}),
  }


def tensors(folder: str | os.PathLike) -> dict[str, Any]:
  """The weights of a folder, with fused projections split."""
  found = _table.split(_files.tensors(folder))
  found = {k: x for k, x in found.items() if not k.endswith(_BUFFERS)}
  _hf_config.check_towers(found)
  return found


def words(
    folder: str | os.PathLike,
    length: int,
    kind: str | None = None,
    clean: str | None = None,
    convert: Callable[[bytes], bytes] = bytes,
) -> vocabulary.Vocabulary | None:
  """The vocabulary of a folder with its padding; None if it has none.

  Args:
    folder: with a tokenizer.json or a spiece.model.
    length: ids in a row.
    kind: class of the tokenizer, where it does not follow from the
      tokenizer_config.json.
    clean: how the format cleans captions (data/cleaning.py), where the
      tokenizer_config.json does not say it, as that of our exports does.
    convert: makes of a tokenizer.json the one that is used.
  """
  folder = pathlib.Path(folder)
  known = vocabulary.settings(folder)
  clean = known.get("clean", clean)
  if (folder / vocabulary.FILE).exists():
    if kind is not None:
      known = {**known, "tokenizer_class": kind}
    pad, side = vocabulary.padding(known)
    return vocabulary.Vocabulary(
        convert((folder / vocabulary.FILE).read_bytes()), length, pad, side,
        vocabulary.folds_case(known), clean,
    )
  if (folder / "spiece.model").exists():
    pad, side = vocabulary.padding(known)
    return vocabulary.from_sentencepiece(
        (folder / "spiece.model").read_bytes(), length, pad=pad or "</s>",
        end="</s>", side=side, canonical=True,
        lower=known.get("do_lower_case") is not False, clean=clean,
    )
  _log.warning(
      "%s holds neither a tokenizer.json nor a spiece.model; a run that trains "
      "on texts must name a vocabulary by tokenizer.model", folder,
  )
  return None


def pixels(
    folder: str | os.PathLike, size: int, defaults: Mapping[str, Any]
) -> dict[str, Any]:
  """The preprocessing of a folder, as settings of images.augment.

  Args:
    folder: may hold preprocessor_config.json or processor_config.json.
    size: side of the images that the tower was trained on.
    defaults: of the type of model, if the folder has neither.

  Raises:
    ValueError: if images.augment cannot do this preprocessing.
  """
  folder = pathlib.Path(folder)
  config = None
  if (folder / "preprocessor_config.json").exists():
    config = _files.read_json(folder / "preprocessor_config.json")
  elif (folder / "processor_config.json").exists():
    config = _files.read_json(folder / "processor_config.json")
    config = config.get("image_processor")
  if not isinstance(config, Mapping):
    _log.warning(
        "%s does not describe preprocessing; taken as is usual: %s",
        folder, dict(defaults),
    )
    return {"size": size, **defaults}
  # null means the default.
  config = {key: value for key, value in config.items() if value is not None}
  side, crop, faults = _side(config)
  resample = config.get("resample", 3)
  if resample not in (2, 3):
    faults.append(f"resample is {resample!r}; ours are 2 and 3")
  factor = config.get("rescale_factor", 1 / 255)
  if not _format.is_number(factor, 0.999 / 255, 1.001 / 255):
    faults.append(f"rescale_factor is {factor!r}, not 1/255")
  _format.refuse(f"{folder}: its preprocessing is not one of ours", faults)
  return {
      "size": side or size, "crop": crop, "method": METHODS[resample],
      **_format.offset(crop == "center", "floor"),
      "mean": _format.channels(
          config.get("image_mean", defaults["mean"]), "image_mean"),
      "std": _format.channels(
          config.get("image_std", defaults["std"]), "image_std"),
  }


def pixels_config(
    preprocessing: Mapping[str, Any], kind: str
) -> dict[str, Any]:
  """The inverse of `pixels`: a preprocessor_config.json.

  Args:
    preprocessing: as in `_format.Weights`.
    kind: the image processor's class.
  """
  side = preprocessing["size"]
  square = {"height": side, "width": side}
  center = preprocessing["crop"] != "none"
  _format.warn_of_offset(preprocessing, "floor")
  if preprocessing["method"] == "area":
    _log.warning(
        "images were averaged by area, which transformers cannot; it is told "
        "to use Pillow's box filter, and pixels may differ by a few levels"
    )
  numbers = {method: number for number, method in METHODS.items()}
  return {
      "image_processor_type": kind,
      "do_resize": True, "do_rescale": True, "do_normalize": True,
      "do_convert_rgb": True, "do_center_crop": center,
      "size": {"shortest_edge": side} if center else square,
      **({"crop_size": square} if center else {}),
      "resample": numbers[preprocessing["method"]],
      "rescale_factor": 1 / 255,
      "image_mean": list(preprocessing["mean"]),
      "image_std": list(preprocessing["std"]),
  }


def save_words(
    folder: str | os.PathLike, words: vocabulary.Vocabulary | None
) -> None:
  """Writes a vocabulary that AutoTokenizer loads with the same ids.

  Its captions must be cleaned as before, which the file cannot do.
  """
  if words is None:
    return
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / vocabulary.FILE).write_bytes(words.content)
  _files.write_json(folder / vocabulary.SETTINGS, {
      "tokenizer_class": "PreTrainedTokenizerFast",
      "model_max_length": words.length, "pad_token": words.pad,
      "padding_side": words.side, "clean": words.clean or "none",
  })


def _side(config) -> tuple[Any, str, list[str]]:
  """(size, crop, unsupported settings) of an image processor's config."""
  def number(value):
    if isinstance(value, Mapping):
      known = [v for v in value.values() if v is not None]
      return known[0] if known and known.count(known[0]) == len(known) else None
    return value

  faults = [
      f"{key} is false" for key in ("do_resize", "do_rescale", "do_normalize")
      if not config.get(key, True)
  ]
  size, crop = config.get("size"), config.get("crop_size")
  faults += [
      f"{key} is {value!r}, expected pixels, or height and width of a square"
      for key, value in (("size", size), ("crop_size", crop))
      if value is not None
      and _format.not_sizes(key, {"side": number(value)}, ("side",))
  ]
  if config.get("do_center_crop", crop is not None):
    if number(size) != number(crop):
      faults.append(f"size {size} is not crop_size {crop}")
    return number(crop), "center", faults
  if isinstance(size, Mapping) and not {"height", "width"} <= size.keys():
    faults.append(f"size {size} without a crop leaves images not square")
  return number(size), "none", faults
