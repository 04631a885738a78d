"""CoAtNet: its sizes as published, its blocks by loops, its tables resized."""

import functools
import itertools
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from basic import optim, paths
from basic.encoders import _linen, _mbconv, _relative, coatnet

jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)

SMALL = dict(
    depths=(2, 1, 1, 2, 1), widths=(4, 4, 8, 8, 8), head=4, dtype="float32"
)


def build(**settings):
  return coatnet.coatnet(**{**SMALL, **settings})


def images(side=32, rows=2):
  draw = np.random.default_rng(0)
  return jnp.asarray(draw.uniform(-1, 1, (rows, side, side, 3)), jnp.float32)


def shapes(encoder, side=32):
  image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  return jax.eval_shape(lambda key: encoder.init(key, image), jax.random.key(0))


def drawn(known, seed=0):
  """Parameters of order one in place of shapes, float64."""
  draw = np.random.default_rng(seed)
  # Above zero, for variances and gains.
  return paths.map_paths(
      lambda path, leaf: draw.uniform(0.5, 1.5, leaf.shape)
      if path.endswith(("scale", "variance"))
      else draw.normal(size=leaf.shape) / math.sqrt(leaf.shape[0]),
      known,
  )


def single(tree):
  return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


# The published sizes count a pre-logits layer and a head for 1000 classes, and
# so do these: the paper's own in whole millions, or derived from its tables.
@pytest.mark.parametrize(
    ("variant", "millions"),
    [("0", 25.0), ("1", 42.2), ("2", 74.6), ("3", 166.9), ("4", 275.3),
     ("5", 686.8), ("6", 1347.8), ("7", 2440.6)],
)
def test_networks_have_their_size(variant, millions):
  tree = shapes(coatnet.coatnet(variant=variant, pre_logits=True), 224)
  width = coatnet.VARIANTS[variant][1][-1]
  count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
  count += 1000 * width + 1000
  assert count == pytest.approx(1e6 * millions, rel=1e-3)


def products(jaxpr):
  """Multiplications of all matrix products and convolutions."""
  total = 0
  for equation in jaxpr.eqns:
    # Some equations have no result.
    size = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
    if equation.primitive.name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      left = equation.invars[0].aval.shape
      total += size * math.prod(left[n] for n in contracted)
    elif equation.primitive.name == "conv_general_dilated":
      # A kernel is [h w in out]: each output sums over all but the last.
      total += size * math.prod(equation.invars[1].aval.shape[:-1])
    times = equation.params.get("length", 1)
    for inner in jax.tree.leaves(
        list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
    ):
      inner = getattr(inner, "jaxpr", inner)
      total += times * products(inner) if hasattr(inner, "eqns") else 0
  return total


@pytest.mark.parametrize(
    ("variant", "billions"), [("0", 4.2), ("3", 34.7)]
)
def test_networks_do_their_work(variant, billions):
  # By index, as the table of one layer serves the whole batch.
  encoder = coatnet.coatnet(variant=variant, pre_logits=True, lookup="gather")
  image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  jaxpr = jax.make_jaxpr(lambda p, x: encoder.apply(p, x, None))(
      shapes(encoder, 224), image
  )
  head = 1000 * coatnet.VARIANTS[variant][1][-1]
  assert products(jaxpr.jaxpr) + head == pytest.approx(
      1e9 * billions, rel=0.03  # of the paper's two digits
  )


def test_products_are_counted_through_loops():
  kernel = jnp.ones((3, 3, 1, 4))

  def function(x, y):
    y, _ = jax.lax.scan(lambda y, _: (y @ jnp.ones((5, 5)), None), y, length=7)
    return jax.lax.conv_general_dilated(
        x, kernel, (2, 2), "SAME", feature_group_count=4,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    ), y

  jaxpr = jax.make_jaxpr(function)(jnp.ones((1, 6, 6, 4)), jnp.ones((2, 5)))
  assert products(jaxpr.jaxpr) == 3 * 3 * 4 * 9 + 7 * 2 * 5 * 5


def grids(encoder, side):
  """Height and width after each stage."""
  found = {}

  def note(call, args, kwargs, context):
    result = call(*args, **kwargs)
    if isinstance(context.module, (coatnet.Stem, _linen.Stage)):
      found[context.module.name] = result.shape[1:]
    return result

  image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  with nn.intercept_methods(note):
    jax.eval_shape(
        lambda p, x: encoder.apply(p, x, None), shapes(encoder, side), image
    )
  return found


@pytest.mark.parametrize("downsample", ["expansion", "depthwise"])
@pytest.mark.parametrize("side", [224, 256])
def test_each_stage_halves(side, downsample):
  encoder = coatnet.coatnet(variant="0", downsample=downsample)
  assert grids(encoder, side) == {
      "stem": (side // 2, side // 2, 64),
      "stage1": (side // 4, side // 4, 96),
      "stage2": (side // 8, side // 8, 192),
      "stage3": (side // 16, side // 16, 384),
      "stage4": (side // 32, side // 32, 768),
  }


def test_the_split_halves_for_the_third_stage():
  found = grids(coatnet.coatnet(variant="7"), 224)
  assert found["split"] == (14, 14, 1024)
  assert found["stage3"] == (14, 14, 2048)
  assert found["stage4"] == (7, 7, 3072)


@pytest.mark.parametrize("side", [33, 50])
def test_an_odd_side_rounds_up(side):
  height, width, _ = grids(build(), side)["stage4"]
  assert (height, width) == (2, 2)


def test_blocks_alike_are_stacked_and_the_first_of_a_stage_stands_alone():
  tree = shapes(coatnet.coatnet(variant="3"), 224)
  for stage, length, heads in (("stage3", 13, 24), ("stage4", 1, 48)):
    side = {"stage3": 27, "stage4": 13}[stage]
    table = tree[stage]["first"]["attention"]["positions"]
    assert table.shape == (heads, side, side)
    table = tree[stage]["blocks"]["attention"]["positions"]
    assert table.shape == (length, heads, side, side)
  kernel = tree["stage2"]["blocks"]["depthwise"]["kernel"]
  assert kernel.shape == (5, 3, 3, 1, 4 * 384)


def test_stored_statistics_do_not_decay_unasked():
  known = paths.flatten(shapes(build(norm="frozen_batch")))
  stored = [x for x in known if x.endswith(("/mean", "/variance"))]
  exempt = paths.any_of(optim.NO_DECAY)
  assert stored and all(exempt(f"image/encoder/{path}") for path in stored)


@pytest.mark.parametrize("norm", ["layer", "frozen_batch"])
@pytest.mark.parametrize("variant", ["0", "7"])
def test_every_parameter_of_every_kind_has_one_row_of_axes(variant, norm):
  encoder = coatnet.coatnet(variant=variant, norm=norm, pre_logits=True)
  for path, leaf in paths.flatten(shapes(encoder, 224)).items():
    found = [axes for row, axes in encoder.axes if re.fullmatch(row, path)]
    assert [len(axes) for axes in found] == [leaf.ndim], (path, found)


# The blocks once more, in NumPy and float64, one image at a time.


def gelu(x):
  return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def dense(x, p):
  return x @ p["kernel"] + p["bias"]


def normalize(x, p):
  if "mean" in p:
    x = (x - p["mean"]) / np.sqrt(p["variance"] + 1e-5)
  else:
    centred = x - x.mean(-1, keepdims=True)
    x = centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  return x * p["scale"] + p["bias"]


def halve(x):
  return x.reshape(len(x) // 2, 2, x.shape[1] // 2, 2, -1).max((1, 3))


def depthwise(x, p, stride):
  """Zeros around the image; with stride 2, after its last pixels only."""
  before = 1 if stride == 1 else 0
  x = np.pad(x, ((before, 1), (before, 1), (0, 0)))
  rows, columns = (range(0, side - 2, stride) for side in x.shape[:2])
  return p["bias"] + np.array([
      [(x[i : i + 3, j : j + 3] * p["kernel"][:, :, 0]).sum((0, 1))
       for j in columns]
      for i in rows
  ])


def excite(x, p):
  z = gelu(dense(x.mean((0, 1)), p["squeeze"]))
  return x / (1 + np.exp(-dense(z, p["gate"])))


def mbconv(x, p, stride, strided):
  y = normalize(x, p["norm1"])
  if strided == "expansion":
    y = y[::stride, ::stride]
  y = gelu(normalize(dense(y, p["expand"]), p["norm2"]))
  y = depthwise(y, p["depthwise"], stride if strided == "depthwise" else 1)
  y = excite(gelu(normalize(y, p["norm3"])), p["excitation"])
  y = dense(y, p["project"])
  if "shortcut" in p:
    x = dense(halve(x) if stride == 2 else x, p["shortcut"])
  return x + y


def attend(x, p):
  """Attention by loops over pairs of places."""
  height, width, _ = x.shape
  q, k, v = (
      np.einsum("ijc,ckd->ijkd", x, p[name]["kernel"]) + p[name]["bias"]
      for name in ("query", "key", "value")
  )
  places = list(itertools.product(range(height), range(width)))
  mixed = np.zeros_like(q)
  for head, one in itertools.product(range(q.shape[2]), places):
    logits = np.array([
        q[one][head] @ k[two][head] / np.sqrt(q.shape[3])
        + p["positions"][
            head, one[0] - two[0] + height - 1, one[1] - two[1] + width - 1
        ]
        for two in places
    ])
    weights = np.exp(logits) / np.exp(logits).sum()
    mixed[one][head] = sum(
        weight * v[two][head]
        for weight, two in zip(weights, places, strict=True)
    )
  return np.einsum("ijkd,kde->ije", mixed, p["out"]["kernel"]) + p["out"]["bias"]


def relative(x, p, stride):
  y = normalize(x, p["attention_norm"])
  if stride == 2:
    x, y = halve(x), halve(y)
  if "shortcut" in p:
    x = dense(x, p["shortcut"])
  x = x + attend(y, p["attention"])
  y = dense(gelu(dense(normalize(x, p["mlp_norm"]), p["mlp"]["in"])),
            p["mlp"]["out"])
  return x + y


def check_block(block, channels, reference, stride):
  """A block with random parameters is its reference."""
  x = np.random.default_rng(1).normal(size=(1, 4, 6, channels))
  image, layer = jnp.asarray(x, jnp.float32), jnp.int32(0)
  known = jax.eval_shape(
      lambda key: block.init(key, image, layer, None), jax.random.key(0)
  )["params"]
  assert ("shortcut" in known) == (stride == 2 or channels != block.width)
  p = drawn(known)
  found, _ = jit(lambda p: block.apply({"params": p}, image, layer, None))(
      single(p)
  )
  # float32, a chain of products of up to 36 terms of order one.
  np.testing.assert_allclose(
      found[0], reference(x[0], p), rtol=1e-4, atol=1e-4
  )


SHAPES = [(4, 2), (8, 2), (8, 1), (4, 1)]


@pytest.mark.parametrize(("channels", "stride"), SHAPES)
def test_relative_blocks_are_equation_4(channels, stride):
  block = _relative.RelativeBlock(
      width=8, stride=stride, head=4, lookup="gather", depth=1,
      stochastic_depth=0.0, dtype="float32",
  )
  check_block(
      block, channels, functools.partial(relative, stride=stride), stride
  )


@pytest.mark.parametrize(
    ("channels", "stride", "downsample", "norm"),
    [
        (4, 2, "expansion", "layer"),
        (8, 2, "depthwise", "layer"),
        (8, 1, "expansion", "layer"),
        (4, 2, "expansion", "frozen_batch"),
    ],
)
def test_mbconv_blocks_are_equation_5(channels, stride, downsample, norm):
  block = _mbconv.MbConv(
      width=8, stride=stride, downsample=downsample, norm=norm, depth=1,
      stochastic_depth=0.0, dtype="float32",
  )
  reference = functools.partial(mbconv, stride=stride, strided=downsample)
  check_block(block, channels, reference, stride)


@pytest.mark.parametrize("norm", ["layer", "frozen_batch"])
def test_the_stem_is_its_equations(norm):
  stem = coatnet.Stem(3, 4, norm, "float32")
  image = images(8, 1)
  known = jax.eval_shape(stem.init, jax.random.key(0), image)["params"]
  p, x = drawn(known), np.asarray(image[0], np.float64)
  found = jit(lambda p: stem.apply({"params": p}, image))(single(p))
  x = oracles.convolve(x, p["convolution1"], 2)
  for n in (2, 3):
    x = oracles.convolve(gelu(normalize(x, p[f"norm{n - 1}"])), p[f"convolution{n}"], 1)
  # float32, sums of 27, 36 and 36 terms of order one.
  np.testing.assert_allclose(found[0], x, rtol=1e-4, atol=1e-4)


def test_a_fresh_frozen_norm_is_the_identity_and_its_statistics_are_fixed():
  x = images(4)
  norm = _mbconv.FrozenBatchNorm()
  params = norm.init(jax.random.key(0), x)
  # The 1e-5 beside a variance of 1.
  np.testing.assert_allclose(norm.apply(params, x), x, rtol=1e-5)

  def loss(params):
    return jnp.sum(jnp.sin(norm.apply(params, x)))

  slopes = jax.grad(loss)(params)["params"]
  for name in ("mean", "variance"):
    np.testing.assert_array_equal(slopes[name], 0)
  for name in ("scale", "bias"):
    assert np.abs(slopes[name]).min() > 0


@functools.cache
def tower():
  """Parameters of order one for the small tower, and its image."""
  return single(drawn(shapes(build(), 64))), images(64, 1)


@functools.cache
def encode(**settings):
  return jit(lambda p, x: build(**settings).apply(p, x, None).pooled)


def test_bias_by_products_and_by_index_give_the_same_features():
  found, want = (
      encode(lookup=lookup)(*tower()) for lookup in ("einsum", "gather")
  )
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)  # float32


def test_the_tables_are_used():
  params, x = tower()
  flat = paths.map_paths(
      lambda path, leaf: 0 * leaf if path.endswith("positions") else leaf,
      params,
  )
  one, two = (encode()(p, x) for p in (params, flat))
  assert not np.allclose(one, two, rtol=1e-3, atol=1e-3)


def test_another_resolution_has_resized_tables():
  params, _ = tower()
  fitted = coatnet._fit(params, images(96, 1))
  sizes = {
      path: leaf.shape for path, leaf in paths.flatten(fitted).items()
      if path.endswith("positions")
  }
  assert sizes == {
      "stage3/first/attention/positions": (2, 11, 11),
      "stage3/blocks/attention/positions": (1, 2, 11, 11),
      "stage4/first/attention/positions": (2, 5, 5),
  }
  known = shapes(build(), 96)
  assert jax.tree.map(jnp.shape, fitted) == jax.tree.map(
      lambda leaf: leaf.shape, known
  )
  same = coatnet._fit(params, images(64, 1))
  assert all(
      one is two
      for one, two in zip(
          jax.tree.leaves(params), jax.tree.leaves(same), strict=True
      )
  )
  pooled = jax.eval_shape(
      lambda p, x: build().apply(p, x, None), shapes(build(), 64),
      jax.ShapeDtypeStruct((3, 96, 40, 3), jnp.float32),
  ).pooled
  assert pooled.shape == (3, 8)


def test_the_pooled_vector_is_the_mean_of_the_tokens_through_pre_logits():
  encoder = build(keep_tokens=True, pre_logits=True)
  assert shapes(encoder, 64)["pre_logits"]["kernel"].shape == (8, 8)
  params, x = tower()
  dense = dict(kernel=jnp.eye(8) / 2, bias=jnp.ones(8))
  z = jit(lambda p, x: encoder.apply(p, x, None))(
      {**params, "pre_logits": dense}, x
  )
  assert z.tokens.shape == (1, 4, 8)
  mean = encode()(params, x)  # without either
  np.testing.assert_allclose(z.tokens.mean(1), mean, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
      z.pooled, jnp.tanh(mean / 2 + 1), rtol=1e-5, atol=1e-6  # float32
  )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(variant="8"), "expected one of 0, 1, 2"),
        (dict(variant="0", head=64), "head was given too"),
        (dict(depths=(2, 2)), "expected 5 depths"),
        (dict(depths=(2, 2, 0, 2, 2)), "at least 1"),
        (dict(widths=(8, 8, 8, 8)), "5 widths"),
        (dict(split=(2,)), "split of 2 numbers"),
        (dict(head=33), "head that divides"),
        (dict(stochastic_depth=1.0), "stochastic_depth=1.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    coatnet.coatnet(**settings)


def test_images_that_cannot_be_read_are_refused():
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)
  for call in (
      lambda: jax.eval_shape(build().apply, shapes(build()), image),
      lambda: jax.eval_shape(
          lambda p, x: build().apply(p, x, None), shapes(build()), image
      ),
  ):
    with pytest.raises(ValueError, match=r"uint8.*expected float"):
      call()
