"""Tensors on disk: what is read, and what is never opened."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from basic.weights import _files, _format, _table


def test_what_was_written_is_read(tmp_path):
  arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(3, np.float32)}
  _files.save(tmp_path / "model.safetensors", arrays)
  found = _files.tensors(tmp_path)
  assert found.keys() == arrays.keys()
  for name, array in arrays.items():
    np.testing.assert_array_equal(found[name], array)
    assert found[name].shape == array.shape


def raw(arrays):
  """A safetensors file, byte by byte, of types that NumPy does not name."""
  header, body = {}, b""
  for name, (kind, array) in arrays.items():
    data = array.tobytes()
    header[name] = {"dtype": kind, "shape": list(array.shape),
                    "data_offsets": [len(body), len(body) + len(data)]}
    body += data
  text = json.dumps(header).encode()
  return len(text).to_bytes(8, "little") + text + body


def test_bfloat16_is_read(tmp_path):
  array = np.asarray([1.5, -2.0], jnp.bfloat16)
  (tmp_path / "a.safetensors").write_bytes(raw({"x": ("BF16", array)}))
  found = _files.tensors(tmp_path / "a.safetensors")["x"]
  np.testing.assert_array_equal(found.astype(np.float32), [1.5, -2.0])


def test_a_type_that_is_no_number_of_ours_is_refused(tmp_path):
  array = np.zeros(2, np.uint8)
  (tmp_path / "a.safetensors").write_bytes(raw({"x": ("F8_E4M3", array)}))
  with pytest.raises(ValueError, match="x is of type F8_E4M3"):
    _files.tensors(tmp_path / "a.safetensors")


def test_shards_are_joined_and_stay_in_their_folder(tmp_path):
  _files.save(tmp_path / "one.safetensors", {"a": np.ones(2)})
  _files.save(tmp_path / "two.safetensors", {"b": np.zeros(3)})
  _files.write_json(tmp_path / "model.safetensors.index.json", {
      "weight_map": {"a": "../../one.safetensors", "b": "two.safetensors"}})
  assert sorted(_files.tensors(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "clip.pt", "x.pkl"])
def test_a_pickle_is_refused_with_the_reason_and_the_way_round(tmp_path, name):
  (tmp_path / name).write_bytes(b"\x80\x04.")
  for path in (tmp_path, tmp_path / name):
    with pytest.raises(ValueError, match=r"run any code.*save_file"):
      _files.tensors(path)


def test_a_damaged_file_is_refused(tmp_path):
  (tmp_path / "model.safetensors").write_bytes(b"\x08" + bytes(20))
  with pytest.raises(ValueError, match="no whole safetensors file"):
    _files.tensors(tmp_path)
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(ValueError, match=r"config\.json is not JSON"):
    _files.read_json(tmp_path / "config.json")


def test_nothing_to_read_is_said(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"no model\.safetensors"):
    _files.tensors(tmp_path)
  with pytest.raises(FileNotFoundError, match="nothing at"):
    _files.tensors(tmp_path / "absent")


@pytest.mark.parametrize("layout", _table.LAYOUTS)
def test_a_layout_and_its_inverse_are_one(layout):
  sizes = {"k": 2, "p": 3, "c": 5}
  shape = {
      "head_bias": (8,), "patches": (4, 5, 3, 3), "flat_patches": (4, 45),
      "one_pixel": (4, 5, 1, 1), "number": (), "vector": (1, 1, 4),
  }.get(layout, (8, 8))
  x = np.random.default_rng(0).normal(size=shape)
  there, back = _table.LAYOUTS[layout]
  np.testing.assert_array_equal(back(there(x, sizes), sizes), x)


def test_a_first_layer_takes_in_the_range_of_its_pixels():
  draw = np.random.default_rng(0)
  kernel, bias = draw.normal(size=(2, 2, 3, 4)), draw.normal(size=4)
  mean, std = draw.uniform(size=3), draw.uniform(0.1, 1, 3)
  x = draw.uniform(size=(2, 2, 3))
  want = np.tensordot((x - mean) / std, kernel, 3) + bias
  k, b = _format.to_signal(kernel, bias, mean, std)
  # The new kernel and bias are float32.
  np.testing.assert_allclose(np.tensordot(2 * x - 1, k, 3) + b, want, rtol=1e-5)
  again = _format.from_signal(k, b, mean, std)
  for found, expected in zip(again, (kernel, bias), strict=True):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
