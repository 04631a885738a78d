"""Encoders and their projections: parameters and a batch -> Embedded."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from basic import types
from basic.ops import noise

# Folded into a row's key, so that no layer of a tower draws the same.
_CHANGED = 0x10000
_PROJECTION = (
    ("projection/kernel", ("embed", "projected")),
    ("projection/bias", ("projected",)),
)


def model(
    towers: Mapping[str, types.Encoder],
    *,
    width: int | None = None,
    bias: bool = False,
    only: tuple[str, ...] | None = None,
    views: Mapping[str, str] | None = None,
    changes: Mapping[str, Callable[[Any, types.RowKeys], Any]] | None = None,
) -> types.Model:
  """Combines encoders into one function from a batch to embeddings.

      pooled = encoder(inputs) W (+ b),   one W per tower, none without `width`.

  Args:
    towers: encoder by name: {"image": vit(...), "text": ...}.
    width: d, the width that all towers are projected to; None: no projection,
      each tower keeps its own width.
    bias: whether projections have a bias.
    only: the towers that are projected, if the other encoders have that width
      already; None: all.
    views: field of the batch -> tower that encodes it. Views are named after
      their fields. None: each tower encodes the field of its own name. Several
      views may share a tower: {"crop_a": "image", "crop_b": "image"}.
    changes: by field: (inputs as a tower takes them, one key a row) -> inputs,
      for noise that is drawn on the device, in training alone. Two fields of one
      row draw different noise.

  Returns:
    A model; `init(key, batch)` takes arrays or ShapeDtypeStructs of a batch.

  Raises:
    ValueError: if a view or `only` names a tower that does not exist, a tower
      has no view, or `changes` names a field that no view reads.
  """
  changes = dict(changes or {})
  views = dict(views or {name: name for name in towers})
  _check_names(towers, views, only, changes)
  widths = {
      name: width if only is None or name in only else None for name in towers
  }

  def apply(field, tower):
    number = _CHANGED + sorted(views).index(field)

    def view(params, inputs, keys):
      inputs = as_signal(inputs)
      if keys is not None and field in changes:
        inputs = changes[field](inputs, noise.fold(keys, number))
      features = towers[tower].apply(params["encoder"], inputs, keys)
      if widths[tower] is None:
        return features
      return features._replace(
          pooled=_project(params["projection"], features.pooled)
      )

    return view

  def init(rng, batch):
    return {
        tower: _init_tower(
            jax.random.fold_in(rng, n), towers[tower], batch[field],
            widths[tower], bias,
        )
        for n, (tower, field) in enumerate(
            _first_fields({f: t for f, t in views.items() if f in batch}).items()
        )
    }

  def side(batch):
    return {name: x for name, x in batch.items() if name not in views}

  encode = types.Encode(
      {f: types.View(t, f, apply(f, t)) for f, t in views.items()},
      side,
  )
  return types.Model(init, encode, _axes(towers, widths, bias))


def _check_names(towers, views, only, changes) -> None:
  """Raises ValueError for what `model` cannot combine."""
  for field, tower in views.items():
    if tower not in towers:
      raise ValueError(
          f"view {field!r} names the tower {tower!r}; there are {sorted(towers)}."
      )
  for tower in towers:
    if tower not in views.values():
      raise ValueError(f"no view reads the tower {tower!r}: views are {views}.")
  for field in changes:
    if field not in views:
      raise ValueError(
          f"changes of {field!r} are drawn for no view; views are {views}."
      )
  for tower in only or ():
    if tower not in towers:
      raise ValueError(
          f"only={only} projects {tower!r}; there are {sorted(towers)}."
      )


def axes(model: types.Model, objective: types.Objective) -> types.AxisTable:
  """The axis table of a whole train state, for `sharding.layout.Layout`.

  Args:
    model: whose rows name paths below "params".
    objective: whose rows name paths below "params/objective", or, if they begin
      with "memory", paths of the memory.

  Returns:
    The rows of both.
  """
  return (*model.axes, *(
      (pattern, names) if _is_memory(pattern)
      else (f"objective/(?:{pattern})", names)
      for pattern, names in objective.axes
  ))


def _is_memory(pattern: str) -> bool:
  return re.match(r"memory(?!\w)", pattern) is not None


def as_signal(inputs: Any) -> Any:
  """uint8 pixels as float32 in [-1, 1]; everything else as it is."""
  if inputs.dtype != jnp.uint8:
    return inputs
  return inputs.astype(jnp.float32) / 127.5 - 1.0


def _first_fields(views: Mapping[str, str]) -> dict[str, str]:
  """Tower -> the first field that it encodes, towers in alphabetical order."""
  first: dict[str, str] = {}
  for field, tower in views.items():
    first.setdefault(tower, field)
  return dict(sorted(first.items()))


def _init_tower(rng, encoder, inputs, width, bias):
  # The shapes of the parameters do not depend on the number of rows.
  row = jnp.zeros((1, *inputs.shape[1:]), inputs.dtype)
  params = encoder.init(rng, as_signal(row))
  if width is None:
    return {"encoder": params}
  features = jax.eval_shape(encoder.apply, params, as_signal(row), None)
  fan_in = features.pooled.shape[-1]
  kernel = jax.random.normal(jax.random.fold_in(rng, 1), (fan_in, width))
  projection = {"kernel": kernel * fan_in**-0.5}
  if bias:
    projection["bias"] = jnp.zeros((width,))
  return {"encoder": params, "projection": projection}


def _project(
    params: types.Params, pooled: Float[Array, "b e"]
) -> Float[Array, "b d"]:
  projected = pooled @ params["kernel"]
  if "bias" in params:
    projected = projected + params["bias"][None]
  return projected


def _axes(towers, widths, bias) -> types.AxisTable:
  table = [
      (f"{name}/encoder/{pattern}", names)
      for name, encoder in towers.items()
      for pattern, names in encoder.axes
  ]
  rows = _PROJECTION if bias else _PROJECTION[:1]
  table += [
      (f"{name}/{pattern}", names)
      for name in towers if widths[name] is not None
      for pattern, names in rows
  ]
  return tuple(table)
