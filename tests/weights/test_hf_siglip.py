"""Weights of SiglipModel and Siglip2Model in ours, ours in SiglipModel."""

import io

import foreign
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece

from basic.data import images
from basic.weights import hf_siglip

FORMAT = hf_siglip.hf_siglip()
LENGTH = 16
CAPTIONS = [text for text in foreign.TEXTS if text] * 3 + [
    "a blue boat in the sea", "some birds over grey hills", "snow, and ice",
]


def model_of_pieces(**settings):
  """A unigram model of SentencePiece with ids as SigLIP's: </s> is 1."""
  written = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(CAPTIONS), model_writer=written,
      model_type="unigram", vocab_size=60, hard_vocab_limit=False, pad_id=0,
      eos_id=1, unk_id=2, bos_id=-1, minloglevel=2, **settings,
  )
  return written.getvalue()


def sizes(kind, side):
  both = dict(num_hidden_layers=2, num_attention_heads=2)
  text = dict(
      both, hidden_size=8, intermediate_size=20, vocab_size=80,
      max_position_embeddings=LENGTH, projection_size=12, bos_token_id=None,
      eos_token_id=None, pad_token_id=None,
  )
  image = dict(both, hidden_size=12, intermediate_size=16, patch_size=4)
  if kind == "Siglip2":
    image["num_patches"] = (side // 4) ** 2
  else:
    image["image_size"] = side
  return dict(text_config=text, vision_config=image)


def theirs(folder, kind="Siglip", side=foreign.SIDE):
  t = foreign.library()
  made = getattr(t, f"{kind}Model")(
      getattr(t, f"{kind}Config")(**sizes(kind, side)))
  made = foreign.shake(made)
  made.save_pretrained(folder)
  (folder / "spiece.model").write_bytes(model_of_pieces())
  if kind == "Siglip":
    processor(side).save_pretrained(folder)
  return made


def processor(side):
  from transformers.models.siglip import image_processing_pil_siglip

  return image_processing_pil_siglip.SiglipImageProcessorPil(
      size={"height": side, "width": side})


def judged(made, pixels, ids):
  """(image embeddings, text embeddings, logits) of a SiglipModel."""
  import torch

  given = dict(
      pixel_values=torch.tensor(pixels),
      input_ids=torch.tensor(ids, dtype=torch.long),
  )
  if type(made).__name__ == "Siglip2Model":
    side = pixels.shape[-1] // 4
    cut = pixels.reshape(-1, 3, side, 4, side, 4).transpose(0, 2, 4, 3, 5, 1)
    given["pixel_values"] = torch.tensor(
        cut.reshape(len(pixels), side * side, -1))
    given["pixel_attention_mask"] = torch.ones(len(pixels), side * side).int()
    given["spatial_shapes"] = torch.tensor([[side, side]] * len(pixels))
  with torch.no_grad():
    z = made(**given)
  return (
      z.image_embeds.numpy(), z.text_embeds.numpy(),
      z.logits_per_image.numpy(),
  )


def same(weights, made, side):
  photos = foreign.photos()
  pixels = processor(side)(list(photos), return_tensors="np").pixel_values
  ids = weights.vocabulary.batch(foreign.TEXTS)
  augment = images.augment(**{**weights.settings["augment"], "size": side})
  ready = np.stack([augment(photo, None) for photo in photos])
  np.testing.assert_allclose(
      ready.transpose(0, 3, 1, 2) / 127.5 - 1, pixels, atol=1e-6)
  image, text = foreign.embed(weights, ready, ids)
  want = judged(made, pixels, ids)
  return (
      foreign.near(foreign.unit(image), want[0])
      and foreign.near(foreign.unit(text), want[1])
      and foreign.near(foreign.logits(weights, image, text), want[2])
  )


@pytest.mark.parametrize("kind", ["Siglip", "Siglip2"])
@pytest.mark.parametrize("side", [12, 20])
def test_their_weights_in_ours_embed_alike(tmp_path, kind, side):
  made = theirs(tmp_path, kind, side)
  assert same(FORMAT.read(tmp_path), made, side)


@pytest.mark.parametrize("side", [8, 20])
def test_images_of_another_size_find_their_places_as_in_siglip_2(
    tmp_path, side
):
  made = theirs(tmp_path, "Siglip2", 12)
  assert same(FORMAT.read(tmp_path), made, side)


@pytest.mark.parametrize("kind", ["Siglip", "Siglip2"])
@pytest.mark.parametrize("side", [12, 20])
def test_our_weights_in_theirs_embed_alike(tmp_path, kind, side):
  theirs(tmp_path / "theirs", kind, side)
  weights = FORMAT.read(tmp_path / "theirs")
  tree = foreign.towers(weights.settings)
  shapes = jax.eval_shape(tree.init, jax.random.key(0), {
      "image": jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),
      "text": jax.ShapeDtypeStruct((1, LENGTH), jnp.int32),
  })
  phi = {"log_scale": np.float32(1.5), "bias": np.float32(-3)}
  params = {**foreign.redraw(shapes), "objective": phi}
  weights = weights._replace(params=params)
  FORMAT.write(tmp_path / "ours", *weights)
  made = foreign.library().SiglipModel.from_pretrained(tmp_path / "ours")
  assert same(weights, made.eval(), side)
  again = FORMAT.read(tmp_path / "ours")
  assert same(again, made, side)
  assert again.settings["text"] == weights.settings["text"]
  assert again.settings["image"] == weights.settings["image"]


@pytest.mark.parametrize("side", [12, 20])
def test_a_siglip_2_written_as_siglip_embeds_alike(tmp_path, side):
  made = theirs(tmp_path / "theirs", "Siglip2", side)
  weights = FORMAT.read(tmp_path / "theirs")
  FORMAT.write(tmp_path / "ours", *weights)
  written = foreign.library().SiglipModel.from_pretrained(tmp_path / "ours")
  pixels = processor(side)(
      list(foreign.photos()), return_tensors="np").pixel_values
  ids = weights.vocabulary.batch(foreign.TEXTS)
  for found, want in zip(
      judged(written.eval(), pixels, ids), judged(made, pixels, ids),
      strict=True,
  ):
    assert foreign.near(found, want)


def test_ids_are_theirs_and_survive_writing(tmp_path):
  theirs(tmp_path / "theirs")
  t = foreign.library()
  weights = FORMAT.read(tmp_path / "theirs")
  FORMAT.write(tmp_path / "ours", *weights)
  ids = weights.vocabulary.batch(foreign.TEXTS)
  for words in (
      t.SiglipTokenizer(str(tmp_path / "theirs" / "spiece.model")),
      t.AutoTokenizer.from_pretrained(tmp_path / "ours"),
  ):
    want = words(
        list(foreign.TEXTS), padding="max_length", truncation=True,
        max_length=LENGTH,
    )["input_ids"]
    np.testing.assert_array_equal(ids, want)


def test_towers_that_are_no_siglip_are_refused_with_all_reasons(tmp_path):
  theirs(tmp_path)
  weights = FORMAT.read(tmp_path)
  settings = {
      **weights.settings,
      "image": {**weights.settings["image"], "pool": "token"},
      "projection": {"width": 12, "bias": False, "only": None},
  }
  with pytest.raises(ValueError) as caught:
    FORMAT.write(tmp_path / "ours", *weights._replace(settings=settings))
  for part in ("image.pool is 'token'", "projection.bias is False",
               "projection.only is None"):
    assert part in str(caught.value)


def test_a_tower_without_a_head_is_refused(tmp_path):
  made = theirs(tmp_path)
  vision = {**made.config.vision_config.to_dict(), "vision_use_head": False}
  foreign.edit_json(tmp_path / "config.json", vision_config=vision)
  with pytest.raises(ValueError, match="vision_use_head"):
    FORMAT.read(tmp_path)
