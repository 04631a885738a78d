"""Counts floating-point operations of a function from its jaxpr.

Loops count once an iteration and unused results do not count, so the number is
the one to divide by a peak rate. Matrix products and convolutions count;
elementwise operations are small beside them and do not.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.interpreters import partial_eval


class Work(NamedTuple):
  """The cost of matrix products and convolutions.

  Attributes:
    flops: additions and multiplications, two a multiply-accumulate.
    exact: those of `flops` in float32 at the highest precision, or float64.
    moved: bytes of the operands and results of all products, each read or
      written once.
    unbounded: loops whose trip count is known at run time only; they are
      counted as one iteration.
  """

  flops: float = 0.0
  exact: float = 0.0
  moved: float = 0.0
  unbounded: int = 0

  def times(self, rounds: int) -> "Work":
    """The work of that many iterations."""
    return Work(
        self.flops * rounds, self.exact * rounds, self.moved * rounds,
        self.unbounded,
    )


def count(function: Callable[..., Any], *args: Any) -> Work:
  """Counts the work of `function(*args)`, over all devices, without running it.

  A product of [n k] and [k m] is 2 n k m flops. Of a conditional, the most
  expensive branch counts. A convolution counts padding like entries, as
  published figures do, and skips the zeros that dilation of its input inserts.

  Args:
    function: anything that JAX can trace.
    *args: arrays, or ShapeDtypeStructs in their place.

  Returns:
    The work, with that of the backward pass and of rematerialisation where the
    function contains them.

  Example:
    >>> import jax.numpy as jnp
    >>> count(jnp.dot, jnp.ones((4, 8)), jnp.ones((8, 16))).flops
    1024.0
  """
  closed: Any = jax.make_jaxpr(function)(*args)
  jaxpr = getattr(closed, "jaxpr", closed)
  # Reverse mode leaves forward products behind whose results nothing uses.
  alive, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return _jaxpr(alive)


def _jaxpr(jaxpr: Any) -> Work:
  return _total(_equation(equation) for equation in jaxpr.eqns)


def _total(works: Any) -> Work:
  return functools.reduce(
      lambda a, b: Work(*(x + y for x, y in zip(a, b, strict=True))),
      works, Work(),
  )


def _equation(equation: Any) -> Work:
  name = equation.primitive.name
  if name == "dot_general":
    return _product(equation, _dot(equation))
  if name == "conv_general_dilated":
    return _product(equation, _convolution(equation))
  inner = [_jaxpr(body) for body in _bodies(equation.params)]
  if not inner:
    return Work()
  if name == "cond":
    return max(inner, key=lambda work: work.flops)
  if name == "while":
    work = _total(inner)
    return work._replace(unbounded=work.unbounded + 1)
  return _total(inner).times(_rounds(name, equation.params))


def _rounds(name: str, params: Any) -> int:
  """How often an equation runs its body, summed over devices."""
  if name == "scan":
    return params["length"]
  if name == "shard_map":
    # Shapes in the body are those of one device.
    manual = params.get("manual_axes", params.get("newly_manual_axes"))
    return math.prod(params["mesh"].shape[axis] for axis in manual)
  if name == "pallas_call":
    return math.prod(params["grid_mapping"].grid)
  return 1


def _bodies(params: Any) -> list[Any]:
  """Every jaxpr among the parameters of an equation."""
  bodies = []
  for value in params.values():
    parts = value if isinstance(value, (tuple, list)) else (value,)
    bodies += [p for p in parts if hasattr(p, "eqns")]
  return bodies


def _product(equation: Any, pairs: int) -> Work:
  """The work of one product with so many multiply-accumulates."""
  flops = float(2 * pairs)
  operands = [v.aval for v in equation.invars]
  precision = equation.params.get("precision")
  highest = precision is not None and all(
      p == jax.lax.Precision.HIGHEST
      for p in (precision if isinstance(precision, tuple) else (precision,))
  )
  size = operands[0].dtype.itemsize
  exact = size > 4 or (size == 4 and highest)
  arrays = operands + [v.aval for v in equation.outvars]
  moved = sum(a.size * a.dtype.itemsize for a in arrays)
  return Work(flops, flops if exact else 0.0, float(moved))


def _dot(equation: Any) -> int:
  (contracted, _), _ = equation.params["dimension_numbers"]
  shape = equation.invars[0].aval.shape
  return math.prod(equation.outvars[0].aval.shape) * math.prod(
      shape[axis] for axis in contracted
  )


def _convolution(equation: Any) -> int:
  """Multiply-accumulates of a convolution, without those of dilation zeros."""
  numbers = equation.params["dimension_numbers"]
  kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
  pairs = out[numbers.out_spec[0]] * out[numbers.out_spec[1]]
  pairs *= kernel[numbers.rhs_spec[1]]
  for n, (low, _) in enumerate(equation.params["padding"]):
    pairs *= _pairs_along_axis(
        out[numbers.out_spec[2 + n]], kernel[numbers.rhs_spec[2 + n]], low,
        equation.params["window_strides"][n],
        equation.params["lhs_dilation"][n], equation.params["rhs_dilation"][n],
    )
  return pairs


def _pairs_along_axis(out, kernel, low, stride, input_dilation, dilation):
  """Pairs (output position, kernel entry) that do not hit a dilation zero."""
  if input_dilation == 1:
    return out * kernel
  return sum(
      (position * stride + entry * dilation - low) % input_dilation == 0
      for position in range(out)
      for entry in range(kernel)
  )
