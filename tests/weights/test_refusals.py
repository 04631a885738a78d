"""What no format can say, or no file of a kind may leave out, is a sentence."""

import json

import foreign
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic.experiment import schema
from basic.weights import (
    _clip,
    _clip_resnet,
    _files,
    _format,
    _hugging_face,
    _open_clip,
    hf_clip,
    open_clip,
)

TEXT = dict(
    _clip.TEXT, width=8, depth=1, heads=2, mlp=16, vocab=30, length=6,
    activation="gelu", epsilon=1e-5, pool="eos", padding="read", eos=29,
)
CLIP = {
    "image": dict(
        _clip.IMAGE, width=8, depth=1, heads=2, mlp=16, patch=4,
        activation="gelu", epsilon=1e-5),
    "text": TEXT,
    "projection": {"width": 6, "bias": False, "only": None},
    "objective": {"name": "softmax"},
}
PIXELS = {"size": 8, "crop": "none", "method": "bicubic", **_format.PLAIN}


def zeros(settings, channels=3):
  """Parameters of these towers, all zero."""
  shapes = jax.eval_shape(foreign.towers(settings).init, jax.random.key(0), {
      "image": jax.ShapeDtypeStruct((1, 8, 8, channels), jnp.float32),
      "text": jax.ShapeDtypeStruct((1, 6), jnp.int32),
  })
  phi = {"log_scale": np.zeros((), np.float32)}
  return {
      **jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes),
      "objective": phi,
  }


@pytest.mark.parametrize("name", [
    "hf_clip", "hf_siglip", "open_clip", "big_vision",
])
@pytest.mark.parametrize("tower", ["text", "image"])
def test_a_run_without_a_tower_is_refused(tmp_path, name, tower):
  write = schema.plugin("weights", name)().write
  with pytest.raises(ValueError, match=f"{tower} is None, the format has"):
    write(tmp_path / "x", {**CLIP, tower: None}, {}, None, PIXELS)


def test_a_bit_network_without_an_image_tower_is_refused(tmp_path):
  write = schema.plugin("weights", "timm")().write
  with pytest.raises(ValueError, match="image is None, the format has 'resnet'"):
    write(tmp_path / "x", {**CLIP, "image": None}, {}, None, PIXELS)


def test_a_clip_that_would_pool_at_padding_is_refused():
  masked = {**CLIP, "text": dict(TEXT, pool="last", padding="masked")}
  _clip.refuse(masked)
  read = {**CLIP, "text": dict(TEXT, pool="last", padding="read")}
  with pytest.raises(ValueError, match=r"'last' and text\.padding 'read'"):
    _clip.refuse(read)


@pytest.mark.parametrize(("eos", "family"), [(2, "metaclip_2"), (3, "clip")])
def test_an_end_is_written_under_the_family_that_pools_there(
    tmp_path, eos, family
):
  # In a CLIP of transformers, 2 stands for the largest id.
  hf_clip.hf_clip().write(
      tmp_path, {**CLIP, "text": dict(TEXT, eos=eos)}, zeros(CLIP), None,
      PIXELS)
  assert _files.read_json(tmp_path / "config.json")["model_type"] == family
  assert hf_clip.hf_clip().read(tmp_path).settings["text"]["eos"] == eos


def test_open_clip_has_images_of_three_channels(tmp_path):
  gray = {**PIXELS, "mean": (0.5,), "std": (0.5,)}
  with pytest.raises(ValueError, match="1 channels, the format 3"):
    open_clip.open_clip().write(tmp_path, CLIP, zeros(CLIP, 1), None, gray)


# As open_clip's folders of the CLIPs whose image tower is timm's have it.
CONVNEXT = {
    "model_cfg": {
        "embed_dim": 640,
        "vision_cfg": {
            "timm_model_name": "convnext_base", "timm_model_pretrained": False,
            "timm_pool": "", "timm_proj": "linear", "timm_drop": 0.0,
            "timm_drop_path": 0.1, "image_size": 256,
        },
        "text_cfg": {
            "context_length": 77, "vocab_size": 49408, "width": 640,
            "heads": 10, "layers": 12,
        },
    },
    "preprocess_cfg": {"mean": _clip.MEAN, "std": _clip.STD},
}
VIT = {
    **CONVNEXT["model_cfg"],
    "vision_cfg": {
        "image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
}


@pytest.mark.parametrize(("known", "said"), [
    (CONVNEXT, "vision_cfg.timm_model_name is 'convnext_base'"),
    ({}, "model_cfg is None"),
    ({"model_cfg": {"embed_dim": 3}}, "vision_cfg is None"),
    ({"model_cfg": {**VIT, "vision_cfg": {"image_size": 224, "width": 8}}},
     "vision_cfg.layers is None"),
    ({"model_cfg": {**VIT, "vision_cfg": {
        **VIT["vision_cfg"], "patch_size": None}}},
     "vision_cfg.patch_size is None"),
    ({"model_cfg": {**VIT, "embed_dim": "many"}}, "embed_dim is 'many'"),
])
def test_what_open_clip_says_of_other_towers_is_refused(tmp_path, known, said):
  (tmp_path / open_clip.CONFIG).write_text(json.dumps(known))
  with pytest.raises(ValueError, match=said):
    open_clip.open_clip().read(tmp_path)


def test_open_clip_finds_every_mlp_again():
  # By the rule of open_clip: int(width * mlp_ratio).
  assert int(376 * (3072 / 376)) == 3071
  for width in range(8, 1500, 8):
    for mlp in (*range(1, 60), 3072, 4 * width, 8 * width // 3, 5120):
      assert int(width * _open_clip.ratio(width, mlp)) == mlp, (width, mlp)
  found, _ = _open_clip.settings(_open_clip.config(
      {**CLIP, "image": dict(CLIP["image"], width=376, mlp=3072),
       "text": dict(TEXT, width=376, mlp=3072)}, 2, PIXELS))
  assert found["image"]["mlp"] == found["text"]["mlp"] == 3072


def test_a_mean_that_is_null_is_the_usual_one(tmp_path):
  for value, mean in ((None, _clip.MEAN), (0.4, (0.4,))):
    _files.write_json(tmp_path / "preprocessor_config.json", {
        "image_mean": value, "rescale_factor": None, "crop_size": 8, "size": 8})
    found = _hugging_face.pixels(tmp_path, 8, _clip.PIXELS)
    assert found["mean"] == mean


def test_pixels_of_fewer_channels_than_the_first_layer_are_refused():
  kernel, bias = np.ones((2, 2, 1, 4)), np.zeros(4)
  for move in (_format.to_signal, _format.from_signal):
    with pytest.raises(ValueError, match="1 channels, and mean has 3"):
      move(kernel, bias, _clip.MEAN, (0.5,))
    with pytest.raises(ValueError, match="1 channels, and std has 3"):
      move(kernel, bias, (0.5,), _clip.STD)
  flat = {"image/encoder/stem/convolution1/kernel": kernel}
  for move in (lambda x, p: _clip_resnet.to_ours(x, 2, p),
               _clip_resnet.to_theirs):
    with pytest.raises(ValueError, match="1 channels, and mean has 3"):
      move(flat, {"mean": _clip.MEAN, "std": (0.5,)})


def test_an_index_without_a_map_and_json_without_names_are_refused(tmp_path):
  (tmp_path / "model.safetensors.index.json").write_text('{"metadata": {}}')
  with pytest.raises(ValueError, match="has no weight_map"):
    _files.tensors(tmp_path)
  (tmp_path / "config.json").write_text("[]")
  with pytest.raises(ValueError, match="holds list, expected a JSON object"):
    _files.read_json(tmp_path / "config.json")
