"""Encoders and their projections, view by view."""

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from basic import paths, types
from basic.engine import model


def init(net, rows=4):
  batch = toys.batch(rows)
  return net.init(jax.random.key(0), batch), batch


def test_an_embedding_is_the_projection_of_the_pooled_features(double):
  net = model.model(
      {"image": toys.tower(), "text": toys.tower()}, width=5, bias=True
  )
  params, batch = init(net)
  params["image"]["projection"]["bias"] += 3.0
  z = net.encode(params, batch)
  p = params["image"]
  x = batch["image"].reshape(4, -1)
  pooled = np.tanh(x @ p["encoder"]["in"]["kernel"]) @ p["encoder"]["out"]["kernel"]
  expected = pooled @ p["projection"]["kernel"] + p["projection"]["bias"][None]
  # float32, three sums of 16 terms.
  np.testing.assert_allclose(z.views["image"].pooled, expected, rtol=1e-5)


def test_projections_start_with_the_length_that_towers_pool():
  net = model.model({"image": toys.tower(width=64)}, width=256)
  (params, _), n = init(net), 64 * 256
  square = np.square(params["image"]["projection"]["kernel"]).mean() * 64
  # A mean of n squares of normal draws has variance 2 / n: six deviations.
  assert abs(square - 1) < 6 * np.sqrt(2 / n)


def test_fields_that_no_view_encodes_are_passed_on_as_side_information():
  net = toys.two_towers()
  params, batch = init(net)
  z = net.encode(params, batch)
  assert sorted(z.views) == ["image", "text"]
  assert sorted(z.side) == ["caption_id", "label"]
  prompts = net.encode(params, {"text": batch["text"]})
  assert sorted(prompts.views) == ["text"] and not prompts.side


def test_pixels_are_scaled_to_minus_one_to_one():
  found = model.as_signal(np.array([[0, 51, 255]], np.uint8))
  np.testing.assert_allclose(found, [[-1.0, -0.6, 1.0]], atol=1e-6)
  assert found.dtype == jnp.float32
  for kept in (np.zeros(2, np.float32), np.ones(2, np.int32)):
    assert model.as_signal(kept) is kept


def test_bytes_and_floats_of_one_image_embed_alike():
  net = model.model({"image": toys.tower()})
  pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), np.uint8)
  params = net.init(jax.random.key(0), {"image": pixels})
  one, two = (
      net.encode(params, {"image": image}).views["image"].pooled
      for image in (pixels, pixels.astype(np.float32) / 127.5 - 1)
  )
  # Sums of 16 pixels and 16 units, of order one.
  np.testing.assert_allclose(one, two, rtol=0, atol=checks.rounding(32))


def test_without_a_width_nothing_is_projected():
  net = model.model({"image": toys.tower(width=7)})
  params, batch = init(net)
  assert sorted(params["image"]) == ["encoder"]
  assert net.encode(params, batch).views["image"].pooled.shape == (4, 7)
  assert all("projection" not in pattern for pattern, _ in net.axes)


def test_views_may_share_a_tower_and_then_share_its_parameters():
  net = model.model(
      {"image": toys.tower()}, width=5, views={"a": "image", "b": "image"}
  )
  image = toys.batch(4)["image"]
  batch = {"a": image, "b": image[::-1], "image": image}
  params = net.init(jax.random.key(0), batch)
  assert sorted(params) == ["image"]
  z = net.encode(params, batch)
  np.testing.assert_allclose(
      z.views["a"].pooled, z.views["b"].pooled[::-1], rtol=0,
      atol=checks.rounding(48, size=4),  # 16 pixels, 16 units, 8 features
  )
  assert sorted(z.side) == ["image"]  # no view of that name


def test_parameters_depend_on_neither_rows_nor_the_order_of_towers():
  one, two = toys.tower(), toys.tower()
  key = jax.random.key(0)
  first = model.model({"image": one, "text": two}, width=5)
  other = model.model({"text": two, "image": one}, width=5)
  expected = first.init(key, toys.batch(4))
  for net, batch in ((first, toys.batch(8)), (other, toys.batch(4))):
    jax.tree.map(np.testing.assert_array_equal, net.init(key, batch), expected)
  towers = expected["image"]["encoder"], expected["text"]["encoder"]
  assert not np.allclose(towers[0]["out"]["kernel"], towers[1]["out"]["kernel"])


def test_parameters_are_initialised_from_shapes_alone():
  net = toys.two_towers()
  batch = toys.batch(4)
  shapes = {
      k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch.items()
  }
  one, two = (net.init(jax.random.key(0), given) for given in (batch, shapes))
  jax.tree.map(np.testing.assert_array_equal, one, two)


def test_projections_preserve_the_scale_of_their_inputs():
  net = model.model({"image": toys.tower(width=256)}, width=256)
  params, _ = init(net)
  pooled = np.random.default_rng(0).normal(size=(64, 256))
  kernel = np.asarray(params["image"]["projection"]["kernel"])
  # 16,384 draws: their mean square is within 3% of what is expected.
  np.testing.assert_allclose(np.mean((pooled @ kernel) ** 2), 1.0, atol=0.05)


def test_every_parameter_has_axes_under_its_towers_name():
  net = model.model(
      {"image": toys.tower(), "text": toys.tower()}, width=5, bias=True
  )
  params, _ = init(net)
  known = dict(net.axes)
  assert set(known) == set(paths.flatten(params))
  assert known["text/encoder/in/kernel"] == ("embed", "mlp")
  assert known["image/projection/kernel"] == ("embed", "projected")


def test_noise_depends_on_the_keys_of_rows_alone():
  net = toys.two_towers(dropout=0.5)
  params, batch = init(net)
  keys = jax.random.split(jax.random.key(1), 4)
  one, two, quiet = (net.encode(params, batch, k) for k in (keys, keys, None))
  jax.tree.map(np.testing.assert_array_equal, one.views, two.views)
  assert not np.allclose(one.views["image"].pooled, quiet.views["image"].pooled)


@pytest.mark.parametrize(
    ("views", "sentence"),
    [
        ({"image": "images"}, r"view 'image' names the tower 'images'; there "
                              r"are \['image', 'text'\]"),
        ({"image": "image"}, "no view reads the tower 'text'"),
    ],
)
def test_views_and_towers_that_do_not_meet_are_refused_in_words(
    views, sentence
):
  towers = {"image": toys.tower(), "text": toys.tower()}
  with pytest.raises(ValueError, match=sentence):
    model.model(towers, views=views)


def test_features_keep_their_tokens():
  def apply(params, inputs, keys):
    return types.Features(inputs @ params["kernel"], inputs[:, None], None)

  encoder = types.Encoder(
      lambda rng, x: {"kernel": jnp.ones((8, 4))}, apply,
      (("kernel", ("embed", "mlp")),),
  )
  net = model.model({"text": encoder}, width=3)
  batch = {"text": np.ones((2, 8), np.float32)}
  found = net.encode(net.init(jax.random.key(0), batch), batch).views["text"]
  assert found.pooled.shape == (2, 3) and found.tokens.shape == (2, 1, 8)


def test_changes_are_drawn_for_training_by_row_and_by_field():
  def shift(x, keys):
    return x + jax.vmap(jax.random.normal)(keys)[:, None, None, None]

  views = {"a": "image", "b": "image"}
  plain = model.model({"image": toys.tower()}, views=views)
  net = model.model(
      {"image": toys.tower()}, views=views, changes={"a": shift, "b": shift}
  )
  image = toys.batch(4)["image"]
  batch = {"a": image, "b": image}
  params = net.init(jax.random.key(0), batch)
  keys = jax.random.split(jax.random.key(1), 4)

  def pooled(net, keys, rows=slice(None)):
    z = net.encode(params, {k: x[rows] for k, x in batch.items()}, keys)
    return z.views["a"].pooled, z.views["b"].pooled

  # Evaluations have no keys, and so no changes.
  np.testing.assert_array_equal(pooled(net, None), pooled(plain, None))
  one, two = pooled(net, keys)
  assert not np.allclose(one, pooled(plain, keys)[0])
  assert not np.allclose(one, two)
  parts = [pooled(net, keys[n:n + 2], slice(n, n + 2))[0] for n in (0, 2)]
  np.testing.assert_allclose(
      np.concatenate(parts), one, rtol=0, atol=checks.rounding(32))


def test_changes_of_a_field_that_no_view_reads_are_refused():
  with pytest.raises(ValueError, match="drawn for no view"):
    model.model({"image": toys.tower()}, changes={"pair": lambda x, keys: x})
