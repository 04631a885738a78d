"""Weights under OpenAI's names in ours, and ours under theirs.

The other side is written here in torch, module by module under those names: the
library open_clip is not installed for the tests.
"""

import json

import foreign
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic.weights import _files, open_clip

FORMAT = open_clip.open_clip()
VOCAB, LENGTH, WIDTH, EMBED = 40, 10, 8, 6
MEAN, STD = (0.5, 0.4, 0.3), (0.3, 0.25, 0.2)


def reference(side, quick=True, seed=0, visual=None, eos=None):
  """A CLIP of OpenAI's making: images [b 3 s s], ids -> 2 x [b e].

  `visual` makes its image tower; None: a vision transformer. Texts are pooled at
  the id `eos`; None: at the largest one.
  """
  foreign.library()
  import torch
  from torch import nn

  class Quick(nn.Module):
    def forward(self, x):
      return x * torch.sigmoid(1.702 * x)

  class Block(nn.Module):
    def __init__(self, width, heads):
      super().__init__()
      self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
      self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
      self.mlp = nn.Sequential()
      self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
      self.mlp.add_module("gelu", Quick() if quick else nn.GELU())
      self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x, mask):
      y = self.ln_1(x)
      x = x + self.attn(y, y, y, attn_mask=mask, need_weights=False)[0]
      return x + self.mlp(self.ln_2(x))

  class Blocks(nn.Module):
    def __init__(self, width, heads):
      super().__init__()
      self.resblocks = nn.ModuleList(Block(width, heads) for _ in range(2))

    def forward(self, x, mask=None):
      for block in self.resblocks:
        x = block(x, mask)
      return x

  def free(*shape):
    return nn.Parameter(torch.zeros(shape))

  class Visual(nn.Module):
    def __init__(self):
      super().__init__()
      self.conv1 = nn.Conv2d(3, WIDTH, 4, 4, bias=False)
      self.class_embedding = free(WIDTH)
      self.positional_embedding = free((side // 4) ** 2 + 1, WIDTH)
      self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
      self.transformer, self.proj = Blocks(WIDTH, 2), free(WIDTH, EMBED)

    def forward(self, x):
      x = self.conv1(x).flatten(2).transpose(1, 2)
      first = self.class_embedding.expand(len(x), 1, -1)
      x = torch.cat([first, x], 1) + self.positional_embedding
      x = self.transformer(self.ln_pre(x))
      return self.ln_post(x[:, 0]) @ self.proj

  class Clip(nn.Module):
    def __init__(self):
      super().__init__()
      self.visual = (visual or Visual)()
      self.token_embedding = nn.Embedding(VOCAB, WIDTH)
      self.positional_embedding = free(LENGTH, WIDTH)
      self.transformer, self.ln_final = Blocks(WIDTH, 4), nn.LayerNorm(WIDTH)
      self.text_projection = free(WIDTH, EMBED)
      self.logit_scale = nn.Parameter(torch.tensor(2.5))

    def forward(self, images, ids):
      mask = torch.full((LENGTH, LENGTH), float("-inf")).triu(1)
      x = self.token_embedding(ids) + self.positional_embedding
      x = self.ln_final(self.transformer(x, mask))
      end = ids.argmax(-1) if eos is None else (ids == eos).int().argmax(-1)
      last = x[torch.arange(len(x)), end]
      return self.visual(images), last @ self.text_projection

  made = foreign.shake(Clip(), seed)
  with torch.no_grad():  # foreign.shake knows norms by that name alone
    for name, leaf in made.named_parameters():
      if ".ln_" in f".{name}" and name.endswith("weight"):
        leaf.add_(1.0)
  return made


def config(side, quick=True):
  return {
      "model_cfg": {
          "embed_dim": EMBED, "quick_gelu": quick,
          "vision_cfg": {"image_size": side, "layers": 2, "width": WIDTH,
                         "patch_size": 4, "head_width": 4},
          "text_cfg": {"context_length": LENGTH, "vocab_size": VOCAB,
                       "width": WIDTH, "heads": 4, "layers": 2},
      },
      "preprocess_cfg": {"mean": MEAN, "std": STD},
  }


def save(folder, made, known):
  tensors = {k: x.detach().numpy() for k, x in made.state_dict().items()}
  _files.save(folder / "open_clip_model.safetensors", tensors)
  (folder / "open_clip_config.json").write_text(json.dumps(known))


def ids():
  draw = np.random.default_rng(0)
  rows = draw.integers(0, VOCAB - 1, (3, LENGTH)).astype(np.int32)
  rows[0, 4], rows[1, 9], rows[2, 1] = (VOCAB - 1,) * 3
  rows[0, 5:] = rows[2, 2:] = 0
  return rows


def same(weights, made, side):
  import torch

  photos = foreign.photos(3, side, side)
  image, text = foreign.embed(weights, photos, ids())
  pixels = (photos / 255 - weights.preprocessing["mean"]) / (
      weights.preprocessing["std"])
  with torch.no_grad():
    x, y = (z.numpy() for z in made(
        torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32),
        torch.tensor(ids(), dtype=torch.long),
    ))
  scale = made.logit_scale.exp().item()
  return (
      foreign.near(image, x) and foreign.near(text, y) and foreign.near(
          foreign.logits(weights, image, text),
          scale * foreign.unit(x) @ foreign.unit(y).T)
  )


@pytest.mark.parametrize(("side", "quick"), [(8, True), (12, False)])
def test_their_weights_in_ours_embed_alike(tmp_path, side, quick):
  made = reference(side, quick)
  save(tmp_path, made, config(side, quick))
  weights = FORMAT.read(tmp_path)
  assert same(weights, made, side)
  assert weights.preprocessing["mean"] == MEAN
  # Where torchvision's center crop begins, which these weights were trained on.
  assert weights.settings["augment"]["offset"] == "round"


@pytest.mark.parametrize("side", [8, 12])
def test_our_weights_in_theirs_embed_alike(tmp_path, side):
  made = reference(side)
  import torch  # there, or skipped above

  save(tmp_path, made, config(side))
  weights = FORMAT.read(tmp_path)
  tree = foreign.towers(weights.settings)
  shapes = jax.eval_shape(tree.init, jax.random.key(0), {
      "image": jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),
      "text": jax.ShapeDtypeStruct((1, LENGTH), jnp.int32),
  })
  phi = {"log_scale": np.float32(1.5)}
  weights = weights._replace(
      params={**foreign.redraw(shapes), "objective": phi})
  FORMAT.write(tmp_path / "ours", *weights)
  written = _files.tensors(tmp_path / "ours" / "open_clip_model.safetensors")
  made.load_state_dict({k: torch.tensor(x) for k, x in written.items()})
  assert same(weights, made, side)
  again = FORMAT.read(tmp_path / "ours")
  assert again.settings == weights.settings
  assert same(again, made, side)


def test_texts_are_pooled_at_an_end_token_that_is_not_the_last_id(tmp_path):
  eos = int(ids()[0, 2])  # The other texts have none, so their first id counts.
  made, known = reference(8, eos=eos), config(8)
  known["model_cfg"]["text_cfg"] |= {"pool_type": "eos", "eos_id": eos}
  save(tmp_path, made, known)
  weights = FORMAT.read(tmp_path)
  assert weights.settings["text"]["eos"] == eos
  assert same(weights, made, 8)
  assert not same(weights, reference(8), 8)
  FORMAT.write(tmp_path / "ours", *weights)
  again = json.loads((tmp_path / "ours" / "open_clip_config.json").read_text())
  assert again["model_cfg"]["text_cfg"]["eos_id"] == eos
  assert FORMAT.read(tmp_path / "ours").settings == weights.settings


@pytest.mark.parametrize(("given", "said"), [
    (dict(pool_type="last"), "text_cfg.pool_type is 'last'"),
    (dict(pool_type="eos"), "text_cfg.eos_id is None"),
    (dict(pool_type="eos", eos_id="</s>"), "text_cfg.eos_id is '</s>'"),
])
def test_texts_pooled_elsewhere_are_refused(tmp_path, given, said):
  known = config(8)
  known["model_cfg"]["text_cfg"] |= given
  (tmp_path / "open_clip_config.json").write_text(json.dumps(known))
  with pytest.raises(ValueError, match=said):
    FORMAT.read(tmp_path)


def test_towers_of_another_kind_are_refused_by_their_settings(tmp_path):
  known = config(8)
  known["model_cfg"]["vision_cfg"]["timm_model_name"] = "convnext_base"
  known["model_cfg"]["text_cfg"]["hf_model_name"] = "roberta-base"
  (tmp_path / "open_clip_config.json").write_text(json.dumps(known))
  with pytest.raises(ValueError) as caught:
    FORMAT.read(tmp_path)
  assert "vision_cfg.timm_model_name is 'convnext_base'" in str(caught.value)
  assert "text_cfg.hf_model_name is 'roberta-base'" in str(caught.value)


def test_what_the_format_cannot_say_is_refused(tmp_path):
  made = reference(8)
  save(tmp_path, made, config(8))
  weights = FORMAT.read(tmp_path)
  text = {**weights.settings["text"], "eos": 3, "activation": "gelu",
          "epsilon": 1e-6}
  settings = {**weights.settings, "text": text}
  with pytest.raises(ValueError) as caught:
    FORMAT.write(tmp_path / "ours", *weights._replace(settings=settings))
  for part in ("text.epsilon is 1e-06", "['gelu', 'quick_gelu']"):
    assert part in str(caught.value)


def test_pixels_that_ours_cannot_make_are_refused(tmp_path):
  known = config(8)
  known["preprocess_cfg"]["resize_mode"] = "longest"
  save(tmp_path, reference(8), known)
  with pytest.raises(ValueError, match="resize_mode is 'longest'"):
    FORMAT.read(tmp_path)
