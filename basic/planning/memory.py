"""Bytes on one device, from shardings where possible, else the compiler."""

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
  """A batch, or its embeddings, with rows sharded over the mesh."""
  return jax.tree.map(
      lambda a: jax.ShapeDtypeStruct(
          a.shape, a.dtype, sharding=program.layout.rows
      ),
      shapes,
  )


def whole(tree: Any) -> int:
  """Bytes of a tree of ShapeDtypeStructs, over all devices without replicas."""
  return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(tree))


def held(tree: Any) -> int:
  """Bytes of a tree of ShapeDtypeStructs with shardings, on one device."""
  return sum(
      math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize
      for a in jax.tree.leaves(tree)
  )


class TooLarge(Exception):
  """The compiler's error that a step does not fit in device memory.

  Attributes:
    needs: bytes that the step takes on one device.
    has: bytes of the device.
  """

  def __init__(self, needs: int, has: int):
    super().__init__(f"needs {needs} bytes, has {has}")
    self.needs, self.has = needs, has

  @classmethod
  def read(cls, text: str) -> "TooLarge | None":
    """Parses a message such as "Used 22.5G of 15.75G hbm"; None if it is not."""
    match = re.search(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT])", text)
    if match is None:
      return None
    needs, needs_unit, has, has_unit = match.groups()
    return cls(*(
        int(float(number) * 1024 ** (1 + "KMGT".index(letter)))
        for number, letter in ((needs, needs_unit), (has, has_unit))
    ))


def step(
    program: build.Program, state: types.TrainState, batch: types.Batch
) -> jax.stages.Compiled:
  """Compiles the training step.

  Args:
    program: of a stage.
    state: ShapeDtypeStructs with shardings.
    batch: ShapeDtypeStructs; fields that stay in host memory are placed there.

  Raises:
    TooLarge: if the compiler knows the memory of the device, as that for TPUs
      does, and it is too small.
  """
  with program.layout.context():
    update: Any = program.update  # From `jax.jit`, which adds `lower`.
    lowered = update.lower(state, program.layout.sharded(batch))
  try:
    return lowered.compile(_compiler_options(program))
  except jax.errors.JaxRuntimeError as error:
    refusal = TooLarge.read(str(error))
    if refusal is None:
      raise
    raise refusal from error


def _compiler_options(program: build.Program) -> dict[str, Any]:
  """Options that skip optimising machine code, which never runs here.

  That comes after buffer assignment, so the figures stay the same to some bytes.
  """
  if program.layout.mesh.devices.flat[0].platform != "cpu":
    return {}
  options: dict[str, Any] = {"xla_backend_optimization_level": 0}
  if jax.__version_info__ < (0, 11):  # Later releases do not have it.
    options["xla_cpu_use_fusion_emitters"] = False
  return options


def analysed(compiled: jax.stages.Compiled) -> Any:
  """The compiler's memory analysis of a program, sizes in bytes.

  Raises:
    RuntimeError: if the compiler of this platform has none.
  """
  analysis = compiled.memory_analysis()
  if analysis is None:
    raise RuntimeError(
        "this platform's compiler gives no memory analysis; plan on another, "
        "such as --topology v5e:2x2 or the CPU."
    )
  return analysis


def total(compiled: jax.stages.Compiled) -> int:
  """Bytes that a compiled step takes on one device, by the compiler.

  Arguments, results and temporaries. A result that reuses a donated argument
  counts once, and an argument in host memory does not count. The compiler for
  CPUs, which have a single memory, counts that too, so it is subtracted here.
  """
  analysis = analysed(compiled)
  miscounted = sum(jax.tree.leaves(jax.tree.map(
      _host_bytes, compiled.in_avals, compiled.input_shardings
  ))) - analysis.host_argument_size_in_bytes
  return (
      analysis.argument_size_in_bytes + analysis.output_size_in_bytes
      + analysis.temp_size_in_bytes - analysis.alias_size_in_bytes
      - max(miscounted, 0)
  )


def _host_bytes(a: Any, sharding: Any) -> int:
  """Bytes of one device's shard of an array, if it is in host memory."""
  # None: the compiler has dropped the argument, since the step does not use it.
  if sharding is None or sharding.memory_kind != layout.HOST:
    return 0
  return math.prod(sharding.shard_shape(a.shape)) * a.dtype.itemsize


def brought(
    program: build.Program,
    state: types.TrainState,
    batch: types.Batch,
    frozen: Iterable[str],
) -> int:
  """Bytes that one device reads from host memory in a step.

  A field in host memory is read once for the forward pass and, if its tower is
  trained, once more for the backward pass. Kept activations, which save the
  second transfer, are not taken into account.

  Args:
    program: of a stage.
    state: ShapeDtypeStructs with shardings.
    batch: likewise; some fields may be in host memory.
    frozen: patterns of frozen parameters.
  """
  trainable, _ = paths.split(state.params, tuple(frozen))
  passes = {
      view.field: 2 if view.tower in trainable else 1
      for view in program.model.encode.views.values()
  }
  return sum(
      passes.get(name, 1) * _host_bytes(a, a.sharding)
      for name, field in batch.items() for a in jax.tree.leaves(field)
  )


def embedded(
    program: build.Program,
    state: types.TrainState,
    batch: types.Batch,
    kept: Collection[str] = (),
) -> types.Embedded:
  """The embeddings of a batch as ShapeDtypeStructs with shardings.

  Args:
    program: of a stage.
    state: ShapeDtypeStructs with shardings.
    batch: likewise, of what a step takes.
    kept: fields that are stored embeddings already.
  """
  encode = stored_embeddings.encode(program.model.encode, kept)
  return on_rows(program, jax.eval_shape(encode, state.params, batch))


def loss_alone(
    program: build.Program, state: types.TrainState, z: types.Embedded
) -> jax.stages.Compiled:
  """Compiles the loss and its gradient at the embeddings, without encoders."""

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
  ).compile(_compiler_options(program))


def breakdown(
    compiled: jax.stages.Compiled,
    loss: jax.stages.Compiled,
    state: types.TrainState,
    batch: types.Batch,
    z: types.Embedded,
    frozen: tuple[str, ...],
) -> dict[str, int]:
  """Splits the bytes of a step on one device by purpose.

  Args:
    compiled: the step.
    loss: the loss alone, from `loss_alone`.
    state: ShapeDtypeStructs with shardings.
    batch: likewise; some fields may be in host memory.
    z: likewise, of the embeddings.
    frozen: patterns of frozen parameters.

  Returns:
    parameters, optimizer (state), memory (of the objective), input (as far as
    the step uses it), other (key, counters, metrics, padding); and of the
    temporaries gradients, embeddings (with their gradients) and activations (all
    the rest). These sum to `total`.
    Besides, `loss`: temporaries of the loss at its peak, which share memory with
    activations; and `input_on_host`: bytes of this device's shard of the input
    in host memory.
  """
  on_host = sum(_host_bytes(a, a.sharding) for a in jax.tree.leaves(batch))
  resident = {
      "parameters": held(state.params),
      "optimizer": held(state.opt_state),
      "memory": held(state.memory),
      "input": held(batch) - on_host,
  }
  sum_of_all = total(compiled)
  left = analysed(compiled).temp_size_in_bytes
  other = sum_of_all - left - sum(resident.values())
  # A field of the batch that the step does not use is no argument of it.
  resident["input"] += min(other, 0)
  resident["other"] = max(other, 0)
  trainable, _ = paths.split(state.params, frozen)
  pooled = [features.pooled for features in z.views.values()]
  temporary = {}
  for name, size in (
      ("gradients", held(trainable)), ("embeddings", 2 * held(pooled)),
  ):
    temporary[name] = min(size, left)  # It may never be in memory all at once.
    left -= temporary[name]
  temporary["activations"] = left
  return {
      **resident, **temporary, "total": sum_of_all,
      "loss": analysed(loss).temp_size_in_bytes,
      "input_on_host": on_host,
  }
