"""basic.load of another project's weights classifies as that project does."""

import foreign
import numpy as np
import pytest
import test_hf_clip
from PIL import Image

import basic


def test_a_clip_of_transformers_gives_its_own_probabilities(tmp_path):
  """From picture files and words to probabilities, on all devices."""
  made = test_hf_clip.theirs(tmp_path)
  import torch

  library, side = foreign.library(), foreign.SIDE
  draw = np.random.default_rng(0)
  pictures = []
  for n, shape in enumerate(((20, 16, 3), (12, 12, 3), (31, 47, 3))):
    image = Image.fromarray(draw.integers(0, 256, shape).astype(np.uint8))
    image.save(tmp_path / f"{n}.png")
    pictures.append(image)
  names = ["a red cat", "two dogs", "7 o'clock"]
  tokens = library.CLIPTokenizer.from_pretrained(tmp_path)(
      [f"a photo of a {name}." for name in names], padding="max_length",
      truncation=True, max_length=16, return_tensors="pt")
  pixels = test_hf_clip.processor(side)(pictures, return_tensors="pt")
  with torch.no_grad():
    theirs = made(**tokens, pixel_values=pixels["pixel_values"]).logits_per_image
  model = basic.load(f"hf_clip:{tmp_path}", batch_size=2)
  for given in (pictures, [tmp_path / f"{n}.png" for n in range(3)]):
    found = model.classify(given, names)
    expected = torch.softmax(theirs, 1).numpy()
    # float32, two layers of width 12; logits of a scale of 14.
    np.testing.assert_allclose(found.probabilities, expected, rtol=1e-3)
    assert found.best == [names[n] for n in theirs.argmax(1)]
  assert "hf_clip:" in repr(model)


def test_settings_of_weights_are_passed_on(tmp_path):
  test_hf_clip.theirs(tmp_path)
  half = basic.load(f"hf_clip:{tmp_path}", dtype="bfloat16", batch_size=2)
  assert half.towers.config["image"]["dtype"] == "bfloat16"
  z = half.embed_images(np.zeros((8, 8, 3), np.uint8))
  assert z.dtype == np.float32 and np.linalg.norm(z) == pytest.approx(1, abs=1e-5)
