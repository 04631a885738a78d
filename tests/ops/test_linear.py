"""Linear layers and patch embeddings against loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic.ops import linear, patches

# Sums of up to 24 float32 products of numbers near 1.
CLOSE = dict(rtol=1e-5, atol=1e-5)


def draw(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def pulled_back(f, arguments, cotangent, dtype="float32"):
  cast = [None if a is None else jnp.asarray(a, dtype) for a in arguments]
  y, pullback = jax.vjp(f, *cast)
  return y, pullback(jnp.asarray(cotangent, dtype))


@pytest.mark.parametrize("rows", [(6,), (2, 3), (2, 3, 2)])
@pytest.mark.parametrize("biased", [True, False])
def test_linear_and_its_gradient_are_those_of_the_equation(rows, biased):
  x, w, dy = draw(*rows, 4), draw(4, 5, seed=1), draw(*rows, 5, seed=2)
  b = draw(5, seed=3) if biased else None
  y, (dx, dw, db) = pulled_back(linear.linear, (x, w, b), dy)
  expected, of_x, of_w = np.zeros_like(dy), np.zeros_like(x), np.zeros_like(w)
  for row in np.ndindex(rows):
    for j in range(5):
      expected[row][j] = (0 if b is None else b[j]) + sum(
          x[row][i] * w[i, j] for i in range(4)
      )
      for i in range(4):
        of_x[row][i] += dy[row][j] * w[i, j]
        of_w[i, j] += x[row][i] * dy[row][j]
  np.testing.assert_allclose(y, expected, **CLOSE)
  np.testing.assert_allclose(dx, of_x, **CLOSE)
  np.testing.assert_allclose(dw, of_w, **CLOSE)
  if biased:
    np.testing.assert_allclose(db, dy.reshape(-1, 5).sum(0), **CLOSE)
  else:
    assert db is None


def test_heads_are_contracted_as_one_axis():
  x, w, b = draw(2, 3, 2, 4), draw(2, 4, 3, 5, seed=1), draw(3, 5, seed=2)
  dy = draw(2, 3, 3, 5, seed=3)
  y, (dx, dw, db) = pulled_back(
      lambda *a: linear.linear(*a, 2), (x, w, b), dy
  )
  np.testing.assert_allclose(y, np.einsum("bnkd,kdef->bnef", x, w) + b, **CLOSE)
  np.testing.assert_allclose(dx, np.einsum("bnef,kdef->bnkd", dy, w), **CLOSE)
  np.testing.assert_allclose(dw, np.einsum("bnkd,bnef->kdef", x, dy), **CLOSE)
  np.testing.assert_allclose(db, dy.sum((0, 1)), **CLOSE)


def test_a_cpu_takes_the_same_derivative_as_accelerators():
  x, w, b = draw(2, 3, 4), draw(4, 5, seed=1), draw(5, seed=2)
  dy = draw(2, 3, 5, seed=3)
  here = pulled_back(linear.linear, (x, w, b), dy)[1]
  arguments = [jnp.asarray(a, "float32") for a in (x, w, b, dy)]
  for a, e in zip(
      here, linear.backward_elsewhere(1, *arguments), strict=True
  ):
    np.testing.assert_allclose(a, e, **CLOSE)
  images, kernel = draw(2, 4, 6, 3), draw(2, 2, 3, 5, seed=1)
  dy = draw(2, 2, 3, 5, seed=2)
  here = pulled_back(patches.embed, (images, kernel), dy)[1]
  arguments = [jnp.asarray(a, "float32") for a in (images, kernel, dy)]
  for a, e in zip(
      here, patches.backward_elsewhere(*arguments), strict=True
  ):
    np.testing.assert_allclose(a, e, **CLOSE)


def test_the_cotangent_is_computed_once_on_a_cpu():
  """The claim that makes it fast: a barrier, and no product over two axes."""

  def gradient(x, w, b):
    return jax.grad(
        lambda *a: jnp.sum(jnp.tanh(linear.linear(*a))), (0, 1, 2)
    )(x, w, b)

  shapes = [jnp.ones(s) for s in ((2, 3, 4), (4, 5), (5,))]
  text = jax.jit(gradient).trace(*shapes).lower(
      lowering_platforms=("cpu",)
  ).as_text()
  assert "optimization_barrier" in text
  elsewhere = jax.jit(gradient).trace(*shapes).lower(
      lowering_platforms=("tpu",)
  ).as_text()
  assert "optimization_barrier" not in elsewhere


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_linear_works_in_loops_under_remat_and_vmap(dtype):
  kernels = jnp.asarray(draw(3, 4, 4), dtype)
  x = jnp.asarray(draw(2, 5, 4, seed=1), dtype)

  def last(layer):

    def run(x, kernels):
      def body(x, kernel):
        return layer(x, kernel, None), None

      y = jax.lax.scan(jax.checkpoint(body), x, kernels)[0]
      return jnp.sum(y.astype(jnp.float32))

    return jax.jit(jax.vmap(jax.grad(run, (0, 1)), (0, None)))(x, kernels)

  ours = last(linear.linear)
  plain = last(lambda x, kernel, bias: x @ kernel)
  # bfloat16 keeps 8 bits, and three products follow each other.
  rounding = 3e-2 if dtype == "bfloat16" else 1e-5
  for a, e in zip(ours, plain, strict=True):
    assert a.dtype == e.dtype == dtype
    a, e = np.asarray(a, "float64"), np.asarray(e, "float64")
    np.testing.assert_allclose(a, e, rtol=rounding, atol=rounding * e.max())


def test_patches_and_their_gradient_are_those_of_the_equation():
  images, kernel = draw(2, 4, 6, 3), draw(2, 3, 3, 5, seed=1)
  dy = draw(2, 2, 2, 5, seed=2)
  y, (dx, dw) = pulled_back(patches.embed, (images, kernel), dy)
  expected, of_x = np.zeros_like(dy), np.zeros_like(images)
  of_w = np.zeros_like(kernel)
  for b, i, j, p, q, c in np.ndindex(2, 2, 2, 2, 3, 3):
    pixel = (b, 2 * i + p, 3 * j + q, c)
    expected[b, i, j] += images[pixel] * kernel[p, q, c]
    of_x[pixel] += kernel[p, q, c] @ dy[b, i, j]
    of_w[p, q, c] += images[pixel] * dy[b, i, j]
  np.testing.assert_allclose(y, expected, **CLOSE)
  np.testing.assert_allclose(dx, of_x, **CLOSE)
  np.testing.assert_allclose(dw, of_w, **CLOSE)


def test_accelerators_keep_the_convolution():
  shapes = jnp.ones((2, 4, 4, 3)), jnp.ones((2, 2, 3, 5))
  traced = jax.jit(patches.embed).trace(*shapes)
  for platform, kept in (("cpu", False), ("tpu", True), ("cuda", True)):
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.convolution" in text) == kept, platform
