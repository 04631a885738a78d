"""Minimises a smooth function of which all data fit in memory: L-BFGS."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Minimum(NamedTuple):
  """Where the minimisation ended.

  Attributes:
    params: the parameters.
    value: of the function there.
    slope: the largest absolute entry of its gradient there.
    steps: updates that were made, int32.
  """

  params: Any
  value: Any
  slope: Any
  steps: Any


def minimize(
    function: Callable[[Any], Any],
    start: Any,
    *,
    steps: int = 1000,
    tolerance: float = 1e-5,
) -> Minimum:
  """Minimises a function by L-BFGS with a zoom line search.

  It ends when no entry of the gradient is larger than `tolerance`, after `steps`
  updates, or when ten updates in a row did not lower the value, which is as far
  as rounding lets it come. Traceable; the data are what `function` closes over.

  Args:
    function: parameters -> a scalar.
    start: tree of arrays of one floating-point type.
    steps: updates at most.
    tolerance: positive.

  Returns:
    The point with the lowest value that was seen.

  References:
    Liu and Nocedal, On the limited memory BFGS method for large scale
    optimization, 1989.

  Example:
    >>> found = minimize(lambda x: jnp.sum((x - 3.0) ** 2), jnp.zeros(2))
    >>> print(found.params)
    [3. 3.]
  """
  tx = optax.lbfgs()
  value_and_grad = optax.value_and_grad_from_state(function)

  def unfinished(carry):
    _, state, best, stalled = carry
    del state
    return (best.slope > tolerance) & (best.steps < steps) & (stalled < 10)

  def update(carry):
    params, state, best, stalled = carry
    value, grad = value_and_grad(params, state=state)
    updates, state = tx.update(
        grad, state, params, value=value, grad=grad, value_fn=function
    )
    params = optax.apply_updates(params, updates)
    # The line search has computed both at the new point.
    value = optax.tree.get(state, "value")
    grad = optax.tree.get(state, "grad")
    lower = value < best.value
    now = Minimum(params, value, _largest(grad), best.steps + 1)
    kept = best._replace(steps=now.steps)
    best = jax.tree.map(lambda new, old: jnp.where(lower, new, old), now, kept)
    return params, state, best, jnp.where(lower, 0, stalled + 1)

  value, grad = jax.value_and_grad(function)(start)
  begun = Minimum(start, value, _largest(grad), jnp.zeros((), jnp.int32))
  end = jax.lax.while_loop(
      unfinished, update, (start, tx.init(start), begun, jnp.zeros((), jnp.int32))
  )
  return end[2]


def _largest(grad: Any) -> Any:
  return jnp.max(jnp.array([jnp.max(jnp.abs(g)) for g in jax.tree.leaves(grad)]))
