"""Families of models that share names of tensors: right numbers, or refused."""

import json

import foreign
import jax
import numpy as np
import pytest
import test_hf_clip
import test_hf_siglip

from basic.data import vocabulary
from basic.weights import _files, hf_clip, hf_siglip, open_clip

READERS = {"hf_clip": hf_clip.hf_clip(), "hf_siglip": hf_siglip.hf_siglip()}
READ = {
    "clip": "hf_clip", "metaclip_2": "hf_clip", "siglip": "hf_siglip",
    "siglip2": "hf_siglip",
}


def metaclip(folder):
  """A MetaClip2Model whose texts end in id 2, as those of XLM-V do."""
  t = foreign.library()
  pieces, merges = foreign.byte_vocabulary()
  names = sorted(pieces, key=pieces.get)
  start, end = "<|startoftext|>", "<|endoftext|>"
  names = [start, "<pad>", end, *(x for x in names if x not in (start, end))]
  config = test_hf_clip.config().to_dict()
  del config["model_type"]
  config["text_config"].update(
      model_type="metaclip_2_text_model", eos_token_id=2, bos_token_id=0,
      pad_token_id=1, vocab_size=len(names))
  config["vision_config"]["model_type"] = "metaclip_2_vision_model"
  made = foreign.shake(t.MetaClip2Model(t.MetaClip2Config(**config)))
  made.save_pretrained(folder)
  t.CLIPTokenizer(
      vocab={name: n for n, name in enumerate(names)}, merges=list(merges),
      pad_token="<pad>", model_max_length=16,
  ).save_pretrained(folder)
  test_hf_clip.processor(foreign.SIDE).save_pretrained(folder)
  return made


def test_a_metaclip_2_pools_at_the_id_that_its_file_names(tmp_path):
  made = metaclip(tmp_path / "theirs")
  weights = READERS["hf_clip"].read(tmp_path / "theirs")
  assert weights.settings["text"]["eos"] == weights.vocabulary.end == 2
  assert test_hf_clip.same(weights, made, foreign.SIDE)
  READERS["hf_clip"].write(tmp_path / "ours", *weights)
  again = foreign.library().AutoModel.from_pretrained(tmp_path / "ours")
  assert type(again).__name__ == "MetaClip2Model"
  assert test_hf_clip.same(weights, again.eval(), foreign.SIDE)


def test_every_model_type_is_read_by_one_reader_or_refused_by_name(tmp_path):
  configuration_auto = pytest.importorskip(
      "transformers.models.auto.configuration_auto"
  )
  for kind in configuration_auto.CONFIG_MAPPING_NAMES:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    for name, reader in READERS.items():
      # Of the right family there is nothing to read, which comes later.
      expected = FileNotFoundError if READ.get(kind) == name else ValueError
      with pytest.raises(expected) as caught:
        reader.read(tmp_path)
      if expected is ValueError:
        assert repr(kind) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("library_name", "reader"), [
    ("CLIPSegModel", "hf_clip"), ("AltCLIPModel", "hf_clip"),
    ("XCLIPModel", "hf_clip"), ("OwlViTModel", "hf_clip"),
    ("CLIPVisionModel", "hf_clip"), ("CLIPTextModel", "hf_clip"),
    ("CLIPVisionModelWithProjection", "hf_clip"),
    ("SiglipVisionModel", "hf_siglip"), ("SiglipTextModel", "hf_siglip"),
    ("Siglip2VisionModel", "hf_siglip"),
])
def test_a_folder_of_another_class_is_refused_in_words(
    tmp_path, library_name, reader
):
  config = getattr(foreign.library(), library_name).config_class()
  config.save_pretrained(tmp_path)
  with pytest.raises(ValueError) as caught:
    READERS[reader].read(tmp_path)
  said = str(caught.value)
  assert repr(config.model_type) in said
  for tower, words in (("Vision", "an image tower alone"),
                       ("Text", "a text tower alone")):
    assert (words in said) == (tower in library_name)


@pytest.mark.parametrize("present", ["vision_model", "text_model"])
@pytest.mark.parametrize("module", [test_hf_clip, test_hf_siglip])
def test_tensors_of_one_tower_are_said_to_be_one_tower(
    tmp_path, module, present
):
  module.theirs(tmp_path)  # As CLIPForImageClassification, of type "clip".
  kept = {k: x for k, x in _files.tensors(tmp_path).items() if present in k}
  _files.save(tmp_path / "model.safetensors", kept)
  alone = "an image" if present == "vision_model" else "a text"
  with pytest.raises(ValueError, match=f"{alone} tower alone") as caught:
    module.FORMAT.read(tmp_path)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["text_config", "vision_config"])
@pytest.mark.parametrize("given", [
    {"num_attention_heads": 4}, {"hidden_act": "gelu"},
    {"layer_norm_eps": 1e-2},
])
def test_what_a_file_says_twice_is_read_as_transformers_reads_it(
    tmp_path, part, given
):
  made = test_hf_clip.theirs(tmp_path)
  config = json.loads((tmp_path / "config.json").read_text())
  sizes = ("hidden_size", "intermediate_size", "num_hidden_layers",
           "num_attention_heads", "vocab_size", "max_position_embeddings",
           "eos_token_id", "image_size", "patch_size")
  # What is said once alone gives way to the defaults of the second part.
  second = {k: config[part][k] for k in sizes if k in config[part]}
  foreign.edit_json(tmp_path / "config.json", **{
      part: {**config[part], "layer_norm_eps": 0.1},
      f"{part}_dict": {**second, **given},
  })
  made = foreign.library().CLIPModel.from_pretrained(tmp_path).eval()
  assert test_hf_clip.same(
      READERS["hf_clip"].read(tmp_path), made, foreign.SIDE)


def test_a_second_part_means_nothing_to_siglip(tmp_path):
  made = test_hf_siglip.theirs(tmp_path)
  foreign.edit_json(
      tmp_path / "config.json", text_config_dict={"num_attention_heads": 4})
  assert test_hf_siglip.same(
      READERS["hf_siglip"].read(tmp_path), made, foreign.SIDE)


def test_the_largest_id_is_the_one_that_ends_texts_not_the_tables_last(
    tmp_path
):
  made = test_hf_clip.theirs(tmp_path)
  config = json.loads((tmp_path / "config.json").read_text())
  text = {**config["text_config"], "eos_token_id": 2}
  text["vocab_size"] += 3  # Rows that no text uses, as in padded tables.
  tensors = _files.tensors(tmp_path)
  name = "text_model.embeddings.token_embedding.weight"
  table = np.concatenate([tensors[name], np.ones_like(tensors[name][:3])])
  _files.save(tmp_path / "model.safetensors", {**tensors, name: table})
  foreign.edit_json(tmp_path / "config.json", text_config=text)
  made = foreign.library().CLIPModel.from_pretrained(tmp_path).eval()
  assert test_hf_clip.same(
      READERS["hf_clip"].read(tmp_path), made, foreign.SIDE)


@pytest.mark.parametrize("eos", [None, "2", [1, 2], -1, 10**6])
def test_an_end_that_is_no_id_is_refused(tmp_path, eos):
  test_hf_clip.theirs(tmp_path)
  config = json.loads((tmp_path / "config.json").read_text())
  foreign.edit_json(
      tmp_path / "config.json",
      text_config={**config["text_config"], "eos_token_id": eos})
  with pytest.raises(ValueError, match=r"eos_token_id is .*expected an id"):
    READERS["hf_clip"].read(tmp_path)


def gemma(folder, kind, **settings):
  """A tokenizer.json as SigLIP 2 has it, of a normalizer that keeps case."""
  import tokenizers as library

  special = ["<pad>", "<eos>", "<bos>", "<unk>"]
  letters = [*"abcdefghijklmnopqrstuvwxyzAC▁é7!'"]
  merges = [("c", "a"), ("ca", "t"), ("▁", "cat")]
  names = [*special, *(f"<0x{n:02X}>" for n in range(256)), *letters,
           *("".join(pair) for pair in merges)]
  made = library.Tokenizer(library.models.BPE(
      vocab={name: n for n, name in enumerate(names)}, merges=merges,
      unk_token="<unk>", fuse_unk=True, byte_fallback=True))
  made.add_special_tokens(special)
  made.normalizer = library.normalizers.Replace(" ", "▁")
  made.pre_tokenizer = library.pre_tokenizers.Split(
      " ", "merged_with_previous")
  made.post_processor = library.processors.TemplateProcessing(
      single="$A <eos>", special_tokens=[("<eos>", 1)])
  made.save(str(folder / "tokenizer.json"))
  (folder / "config.json").write_text(json.dumps({"model_type": kind}))
  (folder / "tokenizer_config.json").write_text(json.dumps({
      "pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>",
      "unk_token": "<unk>", **settings}))


@pytest.mark.parametrize(("kind", "settings"), [
    ("siglip2", {}),
    ("siglip2", {"tokenizer_class": "GemmaTokenizerFast"}),
    ("siglip2", {"tokenizer_class": "PreTrainedTokenizerFast",
                 "do_lower_case": False, "padding_side": "right"}),
    ("siglip", {"tokenizer_class": "Siglip2Tokenizer"}),
    ("siglip", {"tokenizer_class": "Siglip2TokenizerFast",
                "padding_side": "right"}),
    ("siglip", {"tokenizer_class": "GemmaTokenizer"}),
    ("siglip", {"tokenizer_class": "PreTrainedTokenizerFast",
                "do_lower_case": True}),
])
def test_ids_of_a_tokenizer_json_are_those_of_transformers(
    tmp_path, kind, settings
):
  from basic.weights import _hugging_face

  gemma(tmp_path, kind, **settings)
  texts = ["A Cat", "a cat", "", " a  <eos>C", *foreign.TEXTS]
  # What captions say is text, so that none ends at its own "<eos>".
  words = foreign.library().AutoTokenizer.from_pretrained(
      tmp_path, split_special_tokens=True)
  want = words(
      texts, padding="max_length", truncation=True, max_length=16)["input_ids"]
  ours = _hugging_face.words(
      tmp_path, 16, "Siglip2Tokenizer" if kind == "siglip2" else None)
  np.testing.assert_array_equal(ours.batch(texts), want)
  if kind == "siglip":  # A file named by tokenizer.model has its config.
    given = vocabulary.read(tmp_path / "tokenizer.json", 16)
    np.testing.assert_array_equal(given.batch(texts), want)


def test_the_first_folders_of_siglip_2_fold_case_as_they_say(tmp_path):
  # Gemma's class ignores it, and the towers were trained on lower case.
  gemma(tmp_path, "siglip", tokenizer_class="GemmaTokenizer",
        do_lower_case=True)
  words = vocabulary.read(tmp_path / "tokenizer.json", 8)
  np.testing.assert_array_equal(words("A Cat"), words("a cat"))


@pytest.mark.parametrize("lower", [True, False])
def test_a_sentencepiece_model_folds_case_as_its_folder_says(tmp_path, lower):
  (tmp_path / "spiece.model").write_bytes(test_hf_siglip.model_of_pieces())
  (tmp_path / "tokenizer_config.json").write_text(json.dumps({
      "tokenizer_class": "SiglipTokenizer", "pad_token": "</s>",
      "do_lower_case": lower}))
  words = foreign.library().SiglipTokenizer.from_pretrained(tmp_path)
  want = words(
      list(foreign.TEXTS), padding="max_length", truncation=True,
      max_length=16)["input_ids"]
  ours = vocabulary.read(tmp_path / "spiece.model", 16)
  np.testing.assert_array_equal(ours.batch(foreign.TEXTS), want)


# The originals drop what is beyond the last whole patch: 384 pixels are 27
# patches of 14 and 6 pixels; here 14 are 3 of 4 and 2.
ODD = 14


@pytest.mark.parametrize("module", [test_hf_clip, test_hf_siglip])
def test_images_that_are_no_whole_number_of_patches_embed_alike(
    tmp_path, module
):
  made = module.theirs(tmp_path / "theirs", side=ODD)
  weights = module.FORMAT.read(tmp_path / "theirs")
  assert weights.settings["augment"]["size"] == ODD
  assert module.same(weights, made, ODD)
  module.FORMAT.write(tmp_path / "ours", *weights)
  again = module.FORMAT.read(tmp_path / "ours")
  assert again.settings == weights.settings
  t = foreign.library()
  made = t.AutoModel.from_pretrained(tmp_path / "ours").eval()
  assert module.same(again, made, ODD)


def test_open_clip_keeps_images_that_are_no_whole_number_of_patches(tmp_path):
  test_hf_clip.theirs(tmp_path / "theirs", side=ODD, hidden_act="gelu")
  weights = READERS["hf_clip"].read(tmp_path / "theirs")
  image = {**weights.settings["image"], "activation": "gelu"}
  weights = weights._replace(settings={**weights.settings, "image": image})
  folders = [tmp_path / "one", tmp_path / "two"]
  made = open_clip.open_clip()
  made.write(folders[0], *weights)
  again = made.read(folders[0])
  assert again.settings["augment"]["size"] == ODD
  made.write(folders[1], *again)
  assert made.read(folders[1]).settings == again.settings


@pytest.mark.parametrize("module", [test_hf_clip, test_hf_siglip])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, "bfloat16"])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_one_number_is_read_in_either_shape(tmp_path, module, dtype, shape):
  module.theirs(tmp_path)
  tensors = _files.tensors(tmp_path)
  for name in {"logit_scale", "logit_bias"} & tensors.keys():
    tensors[name] = np.full(shape, 1.5, jax.numpy.dtype(dtype))
  _files.save(tmp_path / "model.safetensors", tensors)
  phi = module.FORMAT.read(tmp_path).params["objective"]
  assert {(x.shape, float(x)) for x in phi.values()} == {((), 1.5)}
