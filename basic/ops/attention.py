"""Scaled dot-product attention over a set of tokens.

Letters here: b batch, n queries, m keys, k heads, d width of one head.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from basic.ops import precision


def attend(
    query: Float[Array, "b n k d"],
    key: Float[Array, "b m k d"],
    value: Float[Array, "b m k d"],
    *,
    mask: Bool[Array, "#b #n m"] | None = None,
    bias: Float[Array, "#b k n m"] | None = None,
) -> Float[Array, "b n k d"]:
  """Scaled dot-product attention.

      a_nm = softmax_m(<q_n, k_m> / sqrt(d) + bias_nm),    z_n = sum_m a_nm v_m

  Products take the inputs' precision and accumulate in float32; the softmax
  is float32 throughout (float64 where the inputs are).

  Args:
    query: one vector a query, by head.
    key: one vector a key, by head.
    value: one vector a key, by head.
    mask: True where a query may attend to a key. A query without any key gets
      zeros, so that texts of padding alone stay finite.
    bias: added to the logits before the softmax, as in relative attention.

  Returns:
    `Float[b n k d]` in the dtype of `value`.

  References:
    Vaswani et al., Attention Is All You Need, 2017, eq. 1.
    https://arxiv.org/abs/1706.03762

  Example:
    >>> x = jnp.ones((2, 3, 4, 8))
    >>> attend(x, x, x).shape
    (2, 3, 4, 8)
  """
  exact = precision.accumulator(query.dtype)
  logits = jnp.einsum(
      "bnkd,bmkd->bknm", query, key, preferred_element_type=exact
  )
  logits = logits * query.shape[-1] ** -0.5
  if bias is not None:
    logits = logits + bias.astype(exact)
  if mask is None:
    weights = jax.nn.softmax(logits, axis=-1)
  else:
    seen = mask[:, None]
    weights = jax.nn.softmax(
        jnp.where(seen, logits, jnp.finfo(exact).min), axis=-1
    )
    # The softmax of a row without any key is uniform.
    weights = jnp.where(seen, weights, 0)
  return jnp.einsum("bknm,bmkd->bnkd", weights.astype(value.dtype), value)
