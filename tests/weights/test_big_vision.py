"""Arrays under big_vision's names in ours, and ours under theirs.

The other side is written here in Linen, whose automatic names make the paths.
"""

import flax.linen as nn
import foreign
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic import paths
from basic.weights import big_vision

FORMAT = big_vision.big_vision()
VOCAB, LENGTH, WIDTH, HEADS, MLP = 30, 9, 8, 2, 20


class MlpBlock(nn.Module):

  @nn.compact
  def __call__(self, x):
    x = nn.gelu(nn.Dense(MLP)(x))
    return nn.Dense(WIDTH)(x)


class Block(nn.Module):

  @nn.compact
  def __call__(self, x):
    y = nn.LayerNorm()(x)
    x = x + nn.MultiHeadDotProductAttention(HEADS)(y, y)
    return x + MlpBlock(name="MlpBlock_0")(nn.LayerNorm()(x))


class Encoder(nn.Module):

  @nn.compact
  def __call__(self, x):
    for n in range(2):
      x = Block(name=f"encoderblock_{n}")(x)
    return nn.LayerNorm(name="encoder_norm")(x)


class MAPHead(nn.Module):

  @nn.compact
  def __call__(self, x):
    probe = self.param("probe", nn.initializers.ones, (1, 1, WIDTH))
    probe = jnp.tile(probe, (x.shape[0], 1, 1))
    x = nn.MultiHeadDotProductAttention(HEADS)(probe, x)
    return (x + MlpBlock(name="MlpBlock_0")(nn.LayerNorm()(x)))[:, 0]


def places(module, x):
  shape = (1, *x.shape[1:])
  return module.param("pos_embedding", nn.initializers.ones, shape)


class Image(nn.Module):

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(WIDTH, (4, 4), (4, 4), padding="VALID", name="embedding")(x)
    x = x.reshape(x.shape[0], -1, WIDTH)
    x = Encoder(name="Transformer")(x + places(self, x))
    return MAPHead(name="MAPHead_0")(x)


class Text(nn.Module):

  @nn.compact
  def __call__(self, ids):
    x = nn.Embed(VOCAB, WIDTH)(ids)
    x = Encoder(name="Encoder_0")(x + places(self, x))
    return nn.Dense(WIDTH, name="head")(x[:, -1])


def inputs(side):
  ids = np.random.default_rng(0).integers(0, VOCAB, (3, LENGTH))
  return foreign.photos(3, side, side), jnp.asarray(ids, jnp.int32)


def theirs(path, side, prefix="params/", stacked=False):
  """A file, and what its towers make of `inputs`."""
  photos, ids = inputs(side)
  pixels = jnp.asarray(photos, jnp.float32) / 127.5 - 1
  key, made, z = jax.random.key(0), {}, []
  for name, module, x in (("img", Image(), pixels), ("txt", Text(), ids)):
    shapes = jax.eval_shape(module.init, key, x)["params"]
    params = foreign.redraw(shapes, len(name) + side)
    z.append(np.asarray(jax.jit(module.apply)({"params": params}, x)))
    made[name] = params
  flat = paths.flatten(made) | {
      "t": np.full((1,), 1.2, np.float32), "b": np.full((1,), -4, np.float32)}
  if stacked:
    first = [k for k in flat if "encoderblock_0" in k]
    for name in first:
      pair = [flat.pop(name), flat.pop(name.replace("block_0", "block_1"))]
      flat[name.replace("encoderblock_0", "encoderblock")] = np.stack(pair)
  np.savez(path, **{prefix + k: x for k, x in flat.items()})
  return z


def same(weights, z, side):
  image, text = foreign.embed(weights, *inputs(side))
  want = np.exp(1.2) * foreign.unit(z[0]) @ foreign.unit(z[1]).T - 4
  return (
      foreign.near(image, z[0]) and foreign.near(text, z[1])
      and foreign.near(foreign.logits(weights, image, text), want)
  )


@pytest.mark.parametrize(
    ("side", "prefix", "stacked"),
    [(8, "params/", False), (12, "", False), (8, "params/", True)],
)
def test_their_weights_in_ours_embed_alike(tmp_path, side, prefix, stacked):
  z = theirs(tmp_path / "a.npz", side, prefix, stacked)
  assert same(FORMAT.read(tmp_path / "a.npz"), z, side)


@pytest.mark.parametrize("side", [8, 12])
def test_ours_written_are_the_arrays_that_were_read(tmp_path, side):
  theirs(tmp_path / "a.npz", side)
  weights = FORMAT.read(tmp_path / "a.npz")
  FORMAT.write(tmp_path / "b.npz", *weights)
  with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
    assert sorted(a.files) == sorted(b.files)
    for name in a.files:
      np.testing.assert_array_equal(a[name], b[name], err_msg=name)
  assert FORMAT.read(tmp_path / "b.npz").settings == weights.settings


def test_what_is_missing_or_left_over_is_listed(tmp_path):
  theirs(tmp_path / "a.npz", 8)
  with np.load(tmp_path / "a.npz") as file:
    arrays = dict(file)
  del arrays["params/txt/head/bias"]
  arrays["params/img/head/kernel"] = np.zeros((8, 3))
  np.savez(tmp_path / "b.npz", **arrays)
  with pytest.raises(ValueError) as caught:
    FORMAT.read(tmp_path / "b.npz")
  assert "missing: txt/head/bias [8]" in str(caught.value)
  assert "left over: img/head/kernel [8, 3]" in str(caught.value)


def test_a_file_of_one_tower_is_refused(tmp_path):
  np.savez(tmp_path / "a.npz", embedding=np.zeros(3))
  with pytest.raises(ValueError, match="missing: img/MAPHead_0/probe"):
    FORMAT.read(tmp_path / "a.npz")


def test_objects_in_an_npz_are_refused_as_pickles(tmp_path):
  np.savez(tmp_path / "a.npz", x=np.array([{}], object))
  with pytest.raises(ValueError, match="pickles, which can run code"):
    FORMAT.read(tmp_path / "a.npz")


def test_towers_of_another_kind_are_refused_with_all_reasons(tmp_path):
  theirs(tmp_path / "a.npz", 8)
  weights = FORMAT.read(tmp_path / "a.npz")
  settings = {
      **weights.settings,
      "text": {**weights.settings["text"], "pool": "mean"},
      "projection": {"width": 8, "bias": True, "only": None},
  }
  with pytest.raises(ValueError) as caught:
    FORMAT.write(tmp_path / "b.npz", *weights._replace(settings=settings))
  assert "text.pool is 'mean'" in str(caught.value)
  assert "projection.only is ()" in str(caught.value)
