"""Floating-point operations counted from jaxprs, against closed forms."""

import jax
import jax.numpy as jnp
import pytest

from basic import gradient
from basic.encoders import text_transformer, vit
from basic.engine import model
from basic.objectives import softmax
from basic.ops.pairwise import similarity
from basic.planning import flops
from basic.sharding import layout


def floats(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


def mlp(params, x):
  return jnp.tanh(x @ params[0]) @ params[1]


B, I, H, O = 8, 16, 32, 4
MLP = ([floats(I, H), floats(H, O)], floats(B, I))


def test_a_perceptron_costs_two_flops_a_weight_and_row():
  assert flops.count(mlp, *MLP).flops == 2 * B * (I * H + H * O)


def test_its_gradient_costs_twice_as_much_again_but_for_the_input():
  found = flops.count(jax.grad(lambda p, x: mlp(p, x).sum()), *MLP)
  # The last product's value is not needed; the first has no input gradient.
  assert found.flops == 2 * B * (I * H + H * O + H * O + I * H)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_vision_transformer_costs_its_closed_form(depth, remat):
  d, patch, size = 16, 4, 16
  n = (size // patch) ** 2
  encoder = vit.vit(width=d, depth=depth, heads=2, patch=patch, remat=remat)
  image = floats(1, size, size, 3)
  params = jax.eval_shape(encoder.init, jax.random.key(0), image)
  found = flops.count(lambda p, x: encoder.apply(p, x, None), params, image)
  stem = n * patch * patch * 3 * d
  assert found.flops == 2 * (stem + depth * (12 * d * d * n + 2 * n * n * d))


def test_a_loop_counts_once_an_iteration():
  def power(x):
    return jax.lax.fori_loop(0, 7, lambda _, y: y @ x, x)

  assert flops.count(power, floats(4, 4)).flops == 7 * 2 * 4**3


def test_a_loop_of_unknown_length_is_reported():
  def grow(x):
    return jax.lax.while_loop(lambda y: y.sum() < 9, lambda y: y @ x, x)

  found = flops.count(grow, floats(4, 4))
  assert (found.flops, found.unbounded) == (2 * 4**3, 1)


def test_the_most_expensive_branch_counts():
  def either(x):
    return jax.lax.cond(x.sum() > 0, lambda y: y @ y @ y, lambda y: y @ y, x)

  assert flops.count(either, floats(4, 4)).flops == 2 * 2 * 4**3


def test_rematerialisation_counts():
  def layer(w, x):
    return jnp.tanh(x @ w).sum()

  kept = flops.count(jax.grad(layer), floats(8, 8), floats(4, 8)).flops
  again = flops.count(
      jax.grad(jax.checkpoint(layer)), floats(8, 8), floats(4, 8)
  ).flops
  product = 2 * 4 * 8 * 8
  assert kept == 2 * product
  assert again == 2 * product  # The recomputation; the value is unused.
  two = jax.checkpoint(lambda w, x: jnp.tanh(jnp.tanh(x @ w) @ w))
  with_value = jax.value_and_grad(lambda w, x: two(w, x).sum())
  found = flops.count(with_value, floats(8, 8), floats(4, 8)).flops
  assert found == (2 + 2 + 3) * product  # forward, recomputation, backward


def test_an_unused_product_is_not_counted():
  assert flops.count(lambda x: (x @ x, x + 1)[1], floats(4, 4)).flops == 0


def test_a_custom_derivative_is_counted_like_any_other():
  @jax.custom_vjp
  def square(x):
    return x @ x

  square.defvjp(lambda x: (x @ x, x), lambda x, bar: (bar @ x.T + x.T @ bar,))
  product = 2 * 4**3
  assert flops.count(square, floats(4, 4)).flops == product
  found = flops.count(jax.grad(lambda x: square(x).sum()), floats(4, 4))
  assert found.flops == 2 * product


def convolve(kernel, x, stride=1, padding="SAME", groups=1):
  return jax.lax.conv_general_dilated(
      x, kernel, (stride, stride), padding, feature_group_count=groups,
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def test_a_convolution_costs_its_kernel_at_every_position():
  found = flops.count(convolve, floats(3, 3, 5, 7), floats(2, 8, 8, 5))
  assert found.flops == 2 * 2 * 8 * 8 * 9 * 5 * 7


def test_a_depthwise_convolution_costs_one_channel_a_channel():
  found = flops.count(
      lambda k, x: convolve(k, x, groups=6), floats(3, 3, 1, 6),
      floats(2, 8, 8, 6),
  )
  assert found.flops == 2 * 2 * 8 * 8 * 9 * 6


@pytest.mark.parametrize("groups", [1, 6])
def test_a_strided_convolution_costs_three_times_itself_with_its_gradients(
    groups,
):
  def loss(kernel, x):
    return (convolve(kernel, x, 2, "VALID", groups) ** 2).sum()

  kernel, x = floats(2, 2, 6 // groups, 6), floats(3, 8, 8, 6)
  forward = flops.count(loss, kernel, x).flops
  assert forward == 2 * 3 * 4 * 4 * 4 * (6 // groups) * 6
  both = flops.count(jax.value_and_grad(loss, (0, 1)), kernel, x).flops
  # In the gradient of the input, dilation zeros cost nothing.
  assert both == 3 * forward


def test_exact_products_are_float32_at_highest_precision_and_float64():
  def product(dtype, precision):
    return flops.count(
        lambda x: jax.lax.dot(x, x, precision=precision),
        floats(4, 4, dtype=dtype),
    )

  highest = jax.lax.Precision.HIGHEST
  assert product(jnp.float32, highest).exact == 2 * 4**3
  assert product(jnp.float32, None).exact == 0
  assert product(jnp.bfloat16, highest).exact == 0


def test_bytes_are_those_of_operands_and_results():
  found = flops.count(jnp.dot, floats(4, 8), floats(8, 16))
  assert found.moved == 4 * (4 * 8 + 8 * 16 + 4 * 16)


@pytest.mark.parametrize("method", ["gather", "ring"])
def test_devices_share_the_pairs_of_a_loss(method):
  def loss(x, y):
    rows, cols = similarity.lse(x, y, 2.0, tile=4, method=method)
    return rows.sum() + cols.sum()

  gradient_of = jax.grad(loss, (0, 1))
  alone = flops.count(gradient_of, floats(32, 8), floats(32, 8)).flops
  assert alone == 4 * 2 * 32 * 32 * 8  # forward, recomputation, and one for each side
  with layout.Layout(layout.mesh()).context():
    shared = flops.count(gradient_of, floats(32, 8), floats(32, 8)).flops
  assert shared == alone


def towers():
  made = model.model({
      "image": vit.vit(width=32, depth=2, heads=2, patch=8),
      "text": text_transformer.text_transformer(
          vocab=64, length=8, width=32, depth=2, heads=2
      ),
  }, width=16)
  batch = {
      "image": floats(32, 32, 32, 3), "text": floats(32, 8, dtype=jnp.int32)
  }
  params = jax.eval_shape(made.init, jax.random.key(0), batch)
  objective = softmax.softmax(tile=8)
  phi = jax.eval_shape(lambda: objective.init(jax.random.key(0), None)[0])
  return made, objective, {**params, "objective": phi}, batch


def work(make, **settings):
  made, objective, params, batch = towers()
  found = make(made.encode, objective, **settings)
  return flops.count(
      lambda params, batch: found(params, (), batch, None), params, batch
  ).flops


def test_a_cached_step_costs_at_most_a_forward_pass_more():
  ratio = work(gradient.cached, chunks=4) / work(gradient.direct)
  assert 1.25 < ratio < 1.36  # 4/3 for the towers, 1 for the loss


def test_a_frozen_tower_costs_the_same_in_chunks_and_at_once():
  cached = work(
      gradient.cached, chunks={"image": 4, "text": 1}, frozen=("image/.*",)
  )
  assert cached == work(gradient.direct, frozen=("image/.*",))
