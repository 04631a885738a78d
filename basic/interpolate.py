"""python -m basic.interpolate --workdir runs/finetune_toy --start 800

Judges the weights on the line between two checkpoints of a run: often a point
within beats both ends, because it keeps what the first knew of other data and
has what the second learned.
"""

import json
import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from absl import app, flags
from jaxtyping import Array, Float

from basic import cli as exits
from basic import optim, paths, types
from basic.experiment import restore
from basic.recording import recorder as record


def mixed(
    start: types.Params, end: types.Params, mix: float | Float[Array, ""]
) -> types.Params:
  """The weights on the line between two.

      theta = (1 - a) theta_start + a theta_end

  Args:
    start: where a = 0. Parameters that `end` does not have are left out.
    end: where a = 1. Parameters that `start` does not have, or has in another
      shape, are taken as they are.
    mix: a, usually in [0, 1].

  Returns:
    Parameters of the structure, types and places of `end`; mixed in float32 or
    wider.

  References:
    Wortsman et al., Robust fine-tuning of zero-shot models, 2021, section 3.
    https://arxiv.org/abs/2109.01903

  Example:
    >>> one, two = {"w": jnp.zeros(2)}, {"w": jnp.ones(2)}
    >>> print(mixed(one, two, 0.25)["w"])
    [0.25 0.25]
  """
  known = paths.flatten(start)

  def between(path, there):
    here = known.get(path)
    if here is None or here.shape != there.shape:
      return there
    wide = jnp.promote_types(there.dtype, jnp.float32)
    found = (1 - mix) * here.astype(wide) + mix * there.astype(wide)
    return found.astype(there.dtype)

  return paths.unflatten(
      {path: between(path, leaf) for path, leaf in paths.flatten(end).items()}
  )


def interpolate(
    workdir: str | os.PathLike,
    start: int,
    mixes: Sequence[float],
    step: int | None = None,
) -> tuple[int, dict[float, dict[str, float]]]:
  """Judges mixtures of two checkpoints by the evaluations of the later stage.

  Args:
    workdir: folder of the run.
    start: the checkpoint where a = 0.
    mixes: the values of a.
    step: the checkpoint where a = 1; None: the newest.

  Returns:
    (step, metrics by their recorded names, by a).

  Raises:
    FileNotFoundError: if there is no run, or not these checkpoints.
  """
  _, first = restore.load(workdir, start)
  stage, last = restore.load(workdir, step)
  first, params = optim.judged(first), optim.judged(last)
  found: dict[float, dict[str, float]] = {}
  with stage.layout.context():
    placed = stage.layout.place({"params": params})["params"]
    mix = jax.jit(mixed, out_shardings=placed)
    for a in mixes:
      theta = mix(first, params, jnp.float32(a))
      found[a] = {
          evaluation.prefix + name: value
          for evaluation in stage.evals
          for name, value in evaluation.run(theta).items()
      }
  return int(last.step), found


def _table(found: dict[float, dict[str, float]]) -> str:
  return "\n".join(
      f"a = {a:g}\n{record.table(metrics)}" for a, metrics in found.items()
  )


def main(arguments: list[str]) -> None:
  """Judges the mixes, and prints a table of each, or one JSON object."""
  del arguments
  given = flags.FLAGS
  with exits.sentences():
    step, found = interpolate(
        given.workdir, given.start, [float(a) for a in given.mix], given.step
    )
  if given.json:
    print(json.dumps({"start": given.start, "step": step, "mix": found}))
  else:
    print(f"from step {given.start} to step {step}\n{_table(found)}")


if __name__ == "__main__":
  flags.DEFINE_string("workdir", None, "The run's folder.", required=True)
  flags.DEFINE_integer("start", None, "The first checkpoint.", required=True)
  flags.DEFINE_integer("step", None, "The last; by default the newest.")
  flags.DEFINE_list("mix", ["0", "0.25", "0.5", "0.75", "1"], "Values of a.")
  flags.DEFINE_bool("json", False, "Print one JSON object, not a table.")
  app.run(main)
