"""Weights of CLIPModel in ours, ours in CLIPModel: the same embeddings."""

import json

import foreign
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic.data import images
from basic.weights import _format, hf_clip

FORMAT = hf_clip.hf_clip()


def config(side=foreign.SIDE, **text):
  t = foreign.library()
  pieces, _ = foreign.byte_vocabulary()
  size = dict(num_hidden_layers=2, num_attention_heads=2)
  return t.CLIPConfig(
      projection_dim=5,
      text_config=dict(
          size, hidden_size=8, intermediate_size=20, vocab_size=len(pieces),
          max_position_embeddings=16, eos_token_id=len(pieces) - 1,
          bos_token_id=len(pieces) - 2, **text),
      vision_config=dict(
          size, hidden_size=12, intermediate_size=16, image_size=side,
          patch_size=4),
  )


def theirs(folder, side=foreign.SIDE, **text):
  """A folder that transformers wrote, and the model in it."""
  t = foreign.library()
  pieces, merges = foreign.byte_vocabulary()
  made = foreign.shake(t.CLIPModel(config(side, **text)))
  made.save_pretrained(folder)
  t.CLIPTokenizer(
      vocab=dict(pieces), merges=list(merges), model_max_length=16
  ).save_pretrained(folder)
  processor(side).save_pretrained(folder)
  return made


def processor(side):
  from transformers.models.clip import image_processing_pil_clip

  return image_processing_pil_clip.CLIPImageProcessorPil(
      size={"shortest_edge": side}, crop_size={"height": side, "width": side}
  )


def judged(made, pixels, ids):
  """(image embeddings, text embeddings, logits) of a CLIPModel."""
  import torch

  with torch.no_grad():
    z = made(
        pixel_values=torch.tensor(np.asarray(pixels)),
        input_ids=torch.tensor(np.asarray(ids), dtype=torch.long),
    )
  return (
      z.image_embeds.numpy(), z.text_embeds.numpy(),
      z.logits_per_image.numpy(),
  )


def prepared(weights, photos):
  augment = images.augment(**weights.settings["augment"])
  return np.stack([augment(photo, None) for photo in photos])


def same(weights, made, side):
  """All of both on the same photographs and texts, through each one's own."""
  photos = foreign.photos()
  pixels = processor(side)(list(photos), return_tensors="np").pixel_values
  ids = weights.vocabulary.batch(foreign.TEXTS)
  image, text = foreign.embed(weights, prepared(weights, photos), ids)
  want = judged(made, pixels, ids)
  return (
      foreign.near(foreign.unit(image), want[0])
      and foreign.near(foreign.unit(text), want[1])
      and foreign.near(foreign.logits(weights, image, text), want[2])
  )


@pytest.mark.parametrize("side", [12, 20])
def test_their_weights_in_ours_embed_alike(tmp_path, side):
  made = theirs(tmp_path, side)
  assert same(FORMAT.read(tmp_path), made, side)


def test_old_files_pool_at_the_largest_id(tmp_path):
  made = theirs(tmp_path)
  foreign.edit_json(
      tmp_path / "config.json",
      text_config={**made.config.text_config.to_dict(), "eos_token_id": 2},
  )
  made = foreign.library().CLIPModel.from_pretrained(tmp_path)
  assert made.text_model.eos_token_id == 2
  assert same(FORMAT.read(tmp_path), made, foreign.SIDE)


@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh"])
def test_the_activation_is_the_files(tmp_path, activation):
  made = theirs(tmp_path, hidden_act=activation)
  weights = FORMAT.read(tmp_path)
  assert same(weights, made, foreign.SIDE)
  wrong = {**weights.settings["text"], "activation": "quick_gelu"}
  wrong = weights._replace(settings={**weights.settings, "text": wrong})
  with pytest.raises(AssertionError):
    same(wrong, made, foreign.SIDE)


@pytest.mark.parametrize("side", [12, 20])
def test_our_weights_in_theirs_embed_alike(tmp_path, side):
  theirs(tmp_path / "theirs", side)
  weights = FORMAT.read(tmp_path / "theirs")
  tree = foreign.towers(weights.settings)
  shapes = jax.eval_shape(tree.init, jax.random.key(0), {
      "image": jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),
      "text": jax.ShapeDtypeStruct((1, 16), jnp.int32),
  })
  params = {**foreign.redraw(shapes), "objective": {"log_scale": np.log(7.0)}}
  weights = weights._replace(params=params)
  FORMAT.write(tmp_path / "ours", *weights)
  t = foreign.library()
  made = t.CLIPModel.from_pretrained(tmp_path / "ours").eval()
  assert same(weights, made, side)
  again = FORMAT.read(tmp_path / "ours")
  assert same(again, made, side)
  assert again.settings == weights.settings
  assert again.preprocessing == weights.preprocessing


def test_ids_are_theirs_and_survive_writing(tmp_path):
  theirs(tmp_path / "theirs")
  t = foreign.library()
  weights = FORMAT.read(tmp_path / "theirs")
  FORMAT.write(tmp_path / "ours", *weights)
  for folder in ("theirs", "ours"):
    words = t.AutoTokenizer.from_pretrained(tmp_path / folder)
    want = words(
        list(foreign.TEXTS), padding="max_length", truncation=True,
        max_length=16,
    )["input_ids"]
    np.testing.assert_array_equal(weights.vocabulary.batch(foreign.TEXTS), want)


@pytest.mark.parametrize("shape", [(20, 17), (9, 31), (12, 12), (40, 13)])
def test_pixels_are_theirs_to_the_bit(tmp_path, shape):
  theirs(tmp_path)
  weights = FORMAT.read(tmp_path)
  photos = foreign.photos(2, *shape)
  plain = processor(12)(
      list(photos), do_normalize=False, do_rescale=False, return_tensors="np"
  ).pixel_values
  np.testing.assert_array_equal(
      prepared(weights, photos), plain.transpose(0, 2, 3, 1)
  )


def test_pixels_without_a_mean_of_ones_own_are_ours(tmp_path):
  theirs(tmp_path / "theirs")
  weights = FORMAT.read(tmp_path / "theirs")
  plain = weights._replace(
      preprocessing={**weights.preprocessing, **_format.PLAIN})
  FORMAT.write(tmp_path / "ours", *plain)
  again = FORMAT.read(tmp_path / "ours")
  # Nothing to fold: the same bits come back.
  np.testing.assert_array_equal(
      again.params["image"]["encoder"]["stem"]["kernel"],
      weights.params["image"]["encoder"]["stem"]["kernel"],
  )


def tensors(folder):
  from basic.weights import _files

  return _files.tensors(folder)


def test_what_is_missing_left_over_or_misshapen_is_listed(tmp_path):
  from basic.weights import _files

  theirs(tmp_path)
  found = tensors(tmp_path)
  del found["vision_model.pre_layrnorm.bias"]
  found["surprise"] = np.zeros((2, 3), np.float32)
  found["text_projection.weight"] = np.zeros((5, 7), np.float32)
  _files.save(tmp_path / "model.safetensors", found)
  with pytest.raises(ValueError) as caught:
    FORMAT.read(tmp_path)
  said = str(caught.value)
  assert "missing: vision_model.pre_layrnorm.bias [12]" in said
  assert "left over: surprise [2, 3]" in said
  assert "text_projection.weight is [5, 7], expected [5, 8]" in said


def test_towers_that_are_no_clip_are_refused_with_all_reasons(tmp_path):
  theirs(tmp_path)
  weights = FORMAT.read(tmp_path)
  settings = {
      **weights.settings,
      "image": {**weights.settings["image"], "pool": "mean"},
      "text": {**weights.settings["text"], "causal": False, "pool": "mean"},
      "objective": {"name": "sigmoid"},
  }
  with pytest.raises(ValueError) as caught:
    FORMAT.write(tmp_path / "ours", *weights._replace(settings=settings))
  said = str(caught.value)
  for part in ("image.pool is 'mean'", "text.causal is False",
               "text.pool is 'mean'", "objective.name is 'sigmoid'"):
    assert part in said
  assert not (tmp_path / "ours" / "model.safetensors").exists()


def test_parameters_that_do_not_fit_are_listed(tmp_path):
  theirs(tmp_path)
  weights = FORMAT.read(tmp_path)
  params = {**weights.params, "queue": {"keys": np.zeros((3,))}}
  with pytest.raises(ValueError, match=r"left over: queue/keys \[3\]"):
    FORMAT.write(tmp_path / "ours", *weights._replace(params=params))


def test_an_image_processor_that_ours_is_not_is_refused(tmp_path):
  theirs(tmp_path)
  path = tmp_path / "preprocessor_config.json"
  known = json.loads(path.read_text()) if path.exists() else {}
  path.write_text(json.dumps({**known, "do_normalize": False, "resample": 1}))
  with pytest.raises(ValueError, match=r"(?s)do_normalize.*resample is 1"):
    FORMAT.read(tmp_path)
