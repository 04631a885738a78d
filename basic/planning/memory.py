"""Bytes on one device: from shardings where they say it, else the compiler."""

import math
import re
from collections.abc import Collection, Iterable
from typing import Any

import jax

from basic import paths, types
from basic.data import stored_embeddings
from basic.experiment import build
from basic.sharding import layout


def on_rows(program: build.Program, shapes: Any) -> Any:
  """A batch, or what is made of it, split over the mesh by row."""
  return jax.tree.map(
      lambda a: jax.ShapeDtypeStruct(
          a.shape, a.dtype, sharding=program.layout.rows
      ),
      shapes,
  )


def whole(tree: Any) -> int:
  """Bytes of a tree of shapes, one copy of it."""
  return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(tree))


def held(tree: Any) -> int:
  """Bytes of a tree of placed shapes on one device."""
  return sum(
      math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize
      for a in jax.tree.leaves(tree)
  )


class TooLarge(Exception):
  """A compiler's refusal of a step that its device cannot hold.

  Attributes:
    needs: bytes that the step takes on one device.
    has: bytes that the device has.
  """

  def __init__(self, needs: int, has: int):
    super().__init__(f"needs {needs} bytes, has {has}")
    self.needs, self.has = needs, has

  @classmethod
  def read(cls, text: str) -> "TooLarge | None":
    """The refusal in a message such as "Used 22.5G of 15.75G hbm"."""
    found = re.search(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT])", text)
    if found is None:
      return None
    needs, unit, has, of = found.groups()
    return cls(*(
        int(float(number) * 1024 ** (1 + "KMGT".index(letter)))
        for number, letter in ((needs, unit), (has, of))
    ))


def step(
    program: build.Program, state: types.TrainState, batch: types.Batch
) -> jax.stages.Compiled:
  """Compiles the training step.

  Args:
    program: of a stage.
    state: placed shapes.
    batch: shapes; those that wait on the host are put there.

  Raises:
    TooLarge: if the compiler knows the memory of the device, as a TPU's does,
      and it is too small.
  """
  with program.layout.context():
    lowered = program.update.lower(state, program.layout.sharded(batch))
  try:
    return lowered.compile(_unhurried(program))
  except jax.errors.JaxRuntimeError as error:
    refusal = TooLarge.read(str(error))
    if refusal is None:
      raise
    raise refusal from error


def _unhurried(program: build.Program) -> dict[str, Any]:
  """Options that spare the work of making fast code that never runs.

  Buffers are assigned before it, so that the figures stay the same, to some
  bytes.
  """
  if program.layout.mesh.devices.flat[0].platform != "cpu":
    return {}
  found: dict[str, Any] = {"xla_backend_optimization_level": 0}
  if jax.__version_info__ < (0, 11):  # Newer ones do not know it.
    found["xla_cpu_use_fusion_emitters"] = False
  return found


def total(compiled: jax.stages.Compiled) -> int:
  """Bytes that a compiled step takes on one device, by its compiler.

  Arguments, results and temporaries; a result in the place of a donated
  argument counts once, and an argument in the memory of the host does not. A
  compiler for CPUs, which have one memory, counts it all the same: it is taken
  off again, by its shape.
  """
  found = compiled.memory_analysis()
  miscounted = sum(jax.tree.leaves(jax.tree.map(
      _waiting, compiled.in_avals, compiled.input_shardings
  ))) - found.host_argument_size_in_bytes
  return (
      found.argument_size_in_bytes + found.output_size_in_bytes
      + found.temp_size_in_bytes - found.alias_size_in_bytes
      - max(miscounted, 0)
  )


def _waiting(a: Any, sharding: Any) -> int:
  """Bytes that one device has of an argument beside it, on the host."""
  # None: the step does not read it, and it is no argument.
  if sharding is None or sharding.memory_kind != layout.HOST:
    return 0
  return math.prod(sharding.shard_shape(a.shape)) * a.dtype.itemsize


def brought(
    program: build.Program,
    state: types.TrainState,
    batch: types.Batch,
    frozen: Iterable[str],
) -> int:
  """Bytes that one device reads from its host in a step.

  What waits there is read in each pass: in the forward one, and where its tower
  trains in a second. Of activations that are kept, which spare the second, this
  knows nothing.

  Args:
    program: of a stage.
    state: placed shapes.
    batch: placed shapes, some of them perhaps on the host.
    frozen: patterns of parameters without gradients.
  """
  trainable, _ = paths.split(state.params, tuple(frozen))
  passes = {
      view.leaf: 2 if view.tower in trainable else 1
      for view in program.model.encode.views.values()
  }
  return sum(
      passes.get(name, 1) * _waiting(a, a.sharding)
      for name, leaf in batch.items() for a in jax.tree.leaves(leaf)
  )


def embedded(
    program: build.Program,
    state: types.TrainState,
    batch: types.Batch,
    kept: Collection[str] = (),
) -> types.Embedded:
  """The embeddings of a batch as placed shapes.

  Args:
    program: of a stage.
    state: placed shapes.
    batch: shapes of what a step takes.
    kept: leaves that are embeddings already.
  """
  encode = stored_embeddings.encode(program.model.encode, kept)
  return on_rows(program, jax.eval_shape(encode, state.params, batch))


def loss_alone(
    program: build.Program, state: types.TrainState, z: types.Embedded
) -> jax.stages.Compiled:
  """Compiles the loss with its gradient at embeddings, without any encoder."""

  def loss(phi, pooled, memory, z):
    views = {
        name: features._replace(pooled=pooled[name])
        for name, features in z.views.items()
    }
    z = types.Embedded(views, z.side)
    return program.objective.apply(phi, memory, z, None)

  gradient = jax.value_and_grad(loss, (0, 1), has_aux=True)
  pooled = {name: features.pooled for name, features in z.views.items()}
  return jax.jit(gradient).lower(
      state.params["objective"], pooled, state.memory, z
  ).compile(_unhurried(program))


def breakdown(
    compiled: jax.stages.Compiled,
    loss: jax.stages.Compiled,
    state: types.TrainState,
    batch: types.Batch,
    z: types.Embedded,
    frozen: tuple[str, ...],
) -> dict[str, int]:
  """What the bytes of a step on one device are for.

  Args:
    compiled: the step.
    loss: of it, alone.
    state: placed shapes.
    batch: placed shapes, some of them perhaps on the host.
    z: placed shapes of its embeddings.
    frozen: patterns of parameters without gradients.

  Returns:
    parameters, optimizer (slots), memory (of the objective), input (what of it
    is read), other (key, counters, metrics, padding), and of the temporaries
    gradients, embeddings (and their gradients) and activations (all the rest);
    these sum to `total`.
    Beside them `loss`: temporaries of the loss at its own peak, which share
    room with activations; and `input_on_host`: what of the input waits in the
    memory of the host for this device, as it is laid out there.
  """
  on_host = sum(_waiting(a, a.sharding) for a in jax.tree.leaves(batch))
  resident = {
      "parameters": held(state.params),
      "optimizer": held(state.opt_state),
      "memory": held(state.memory),
      "input": held(batch) - on_host,
  }
  sum_of_all = total(compiled)
  left = compiled.memory_analysis().temp_size_in_bytes
  other = sum_of_all - left - sum(resident.values())
  # A leaf of the batch that the step does not read is no argument of it.
  resident["input"] += min(other, 0)
  resident["other"] = max(other, 0)
  trainable, _ = paths.split(state.params, frozen)
  pooled = [features.pooled for features in z.views.values()]
  temporary = {}
  for name, size in (
      ("gradients", held(trainable)), ("embeddings", 2 * held(pooled)),
  ):
    temporary[name] = min(size, left)  # A compiler may hold part of it only.
    left -= temporary[name]
  temporary["activations"] = left
  return {
      **resident, **temporary, "total": sum_of_all,
      "loss": loss.memory_analysis().temp_size_in_bytes,
      "input_on_host": on_host,
  }
