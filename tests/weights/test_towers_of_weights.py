"""Weights of others, evaluated as they are, without a run."""

import shutil

import foreign
import numpy as np
import pytest
import test_hf_clip

from basic import paths
from basic.experiment import towers
from basic.weights import hf_clip


def test_weights_of_others_are_applied_as_they_were_read(tmp_path):
  test_hf_clip.theirs(tmp_path)
  found = towers.named(f"hf_clip:{tmp_path}")
  weights = hf_clip.hf_clip().read(tmp_path)
  expected = paths.flatten(weights.params)
  for path, leaf in paths.flatten(found.params).items():
    np.testing.assert_array_equal(
        leaf, np.asarray(expected.pop(path)), err_msg=path, strict=True)
  assert not expected
  texts = (*foreign.TEXTS, "a cat", "a dog")  # as many as there are devices
  ids = np.stack([found.tokenizer(text) for text in texts])
  pixels = np.zeros((len(ids), foreign.SIDE, foreign.SIDE, 3), np.uint8)
  z = found.encoder.encode(found.params, {"text": ids, "image": pixels})
  expected = foreign.views(weights, text=ids, image=pixels)
  for name, view in expected.items():
    # float32, fused otherwise by the compiler: widths of 12, two layers.
    np.testing.assert_allclose(z.views[name].pooled, view, rtol=1e-4, atol=1e-5)
  again = towers.of_weights("hf_clip", tmp_path)
  assert (found.step, again.fingerprint) == (None, found.fingerprint)


def test_weights_without_a_vocabulary_take_the_one_that_is_given(tmp_path):
  test_hf_clip.theirs(tmp_path / "theirs")
  for file in (tmp_path / "theirs").glob("*token*"):
    shutil.move(file, tmp_path)
  with pytest.raises(ValueError, match="have a text tower and no vocabulary"):
    towers.of_weights("hf_clip", tmp_path / "theirs")
  found = towers.of_weights(
      "hf_clip", tmp_path / "theirs", tokenizer=tmp_path / "tokenizer.json"
  )
  assert found.tokenizer.length == 16
