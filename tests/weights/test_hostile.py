"""Whatever a file says, the answer is weights or a sentence of ours."""

import io
import json
import struct
import traceback
import zipfile

import numpy as np
import pytest
import test_refusals

from basic.weights import (
    _files,
    _npz,
    big_vision,
    hf_clip,
    hf_siglip,
    open_clip,
    timm,
)

SIGLIP = {
    "image": dict(
        hf_siglip.IMAGE, width=8, depth=1, heads=2, mlp=16, patch=4,
        activation="gelu_tanh", epsilon=1e-6),
    "text": dict(
        hf_siglip.TEXT, width=8, depth=1, heads=2, mlp=16, vocab=30, length=6,
        activation="gelu_tanh", epsilon=1e-6),
    "projection": {"width": 8, "bias": True, "only": ("text",)},
    "objective": {"name": "sigmoid"},
}
VALUES = (
    None, True, 0, -1, 1.5, 10**12, 10**400, float("nan"), "8", [], [8, 8],
    ["a"], {}, [[[]]],
)
KINDS = {
    "hf_clip": (hf_clip.hf_clip(), test_refusals.CLIP, "config.json"),
    "hf_clip's images": (
        hf_clip.hf_clip(), test_refusals.CLIP, "preprocessor_config.json"),
    "hf_siglip": (hf_siglip.hf_siglip(), SIGLIP, "config.json"),
    "open_clip": (
        open_clip.open_clip(), test_refusals.CLIP, open_clip.CONFIG),
}


def parameters(settings):
  found = test_refusals.zeros(settings)
  if settings is SIGLIP:
    found["objective"]["bias"] = np.zeros((), np.float32)
  return found


def leaves(value, path=()):
  """The path of every node of a JSON document."""
  yield path
  if isinstance(value, dict):
    for key in value:
      yield from leaves(value[key], (*path, key))


def put(document, path, value):
  if not path:
    return value
  return {**document, path[0]: put(document[path[0]], path[1:], value)}


@pytest.mark.parametrize("kind", KINDS)
def test_no_value_of_a_configuration_is_an_error_of_pythons_own(tmp_path, kind):
  form, settings, name = KINDS[kind]
  form.write(
      tmp_path, settings, parameters(settings), None, test_refusals.PIXELS)
  document = json.loads((tmp_path / name).read_text())
  for path in leaves(document):
    for value in VALUES:
      (tmp_path / name).write_text(json.dumps(put(document, path, value)))
      try:
        form.read(tmp_path)
      except ValueError as error:
        # A sentence of ours, not one that NumPy or Python has for it.
        raised = traceback.extract_tb(error.__traceback__)[-1].filename
        assert "basic/weights" in raised, (path, value, error)


@pytest.mark.parametrize("scale", [1e30, -1e30, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["hf_clip", "hf_siglip", "open_clip"])
def test_a_scale_that_is_no_scale_is_said(tmp_path, kind, scale):
  form, settings, _ = KINDS[kind]
  phi = {**parameters(settings)["objective"], "log_scale": np.float32(scale)}
  form.write(
      tmp_path, settings, {**parameters(settings), "objective": phi}, None,
      test_refusals.PIXELS)
  with pytest.raises(ValueError, match=r"logit_scale is .*logarithm"):
    form.read(tmp_path)


def npz(path, members, compression=zipfile.ZIP_STORED):
  with zipfile.ZipFile(path, "w", compression) as file:
    for name, content in members.items():
      file.writestr(f"{name}.npy", content)
  return path


def npy(array, shape=None):
  """The bytes of a .npy, perhaps with another shape in the header."""
  written = io.BytesIO()
  header = {"descr": np.lib.format.dtype_to_descr(array.dtype),
            "fortran_order": False, "shape": shape or array.shape}
  np.lib.format.write_array_header_1_0(written, header)
  return written.getvalue() + array.tobytes()


def test_an_npz_is_read_as_numpy_reads_it(tmp_path):
  draw = np.random.default_rng(0)
  arrays = {
      "params/t": np.float32(1.5), "a": draw.normal(size=(2, 3)),
      "b": np.asfortranarray(draw.normal(size=(3, 2, 4))),
      "c": np.arange(5), "d": np.zeros((0, 3), np.float16),
  }
  for save in (np.savez, np.savez_compressed):
    save(tmp_path / "a.npz", **arrays)
    found = _npz.arrays(tmp_path / "a.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
      np.testing.assert_array_equal(found[name], array)
      assert found[name].shape == np.shape(array)


def test_bfloat16_of_an_npz_is_read(tmp_path):
  import jax.numpy as jnp

  array = np.asarray([1.5, -2.0], jnp.bfloat16)
  np.savez(tmp_path / "a.npz", x=array)
  found = _npz.arrays(tmp_path / "a.npz")["x"]
  np.testing.assert_array_equal(found.astype(np.float32), [1.5, -2.0])


def hostile(folder, case):
  path, four = folder / "a.npz", np.ones(4, np.float32)
  if case == "empty":
    path.write_bytes(b"")
  elif case == "a plain .npy":
    path.write_bytes(npy(four))
  elif case == "a shape of 10^12":
    npz(path, {"t": npy(four, (10**12,))})
  elif case == "objects":
    np.savez(path, t=np.array([{}], object), allow_pickle=True)
  elif case == "words":
    np.savez(path, t=np.array(["a"]))
  elif case == "a bomb":
    npz(path, {"t": npy(np.zeros(2**23, np.float32))}, zipfile.ZIP_DEFLATED)
  elif case == "text":
    path.write_text("nothing of the kind")
  elif case == "cut":
    npz(path, {"t": npy(four)})
    path.write_bytes(path.read_bytes()[:-30])
  else:  # No version of .npy.
    npz(path, {"t": b"\x93NUMPY\x09\x00" + struct.pack("<H", 0)})
  return path


@pytest.mark.parametrize("case", [
    "empty", "a plain .npy", "a shape of 10^12", "objects", "words", "a bomb",
    "text", "cut", "a version",
])
def test_an_npz_that_is_none_is_refused(tmp_path, case):
  path = hostile(tmp_path, case)
  with pytest.raises(ValueError, match=r"no \.npz of plain arrays"):
    big_vision.big_vision().read(path)


def test_a_header_of_a_million_tensors_is_refused_unread(tmp_path):
  path = tmp_path / "model.safetensors"
  path.write_bytes(struct.pack("<Q", 67 * 2**20) + b"{")
  with pytest.raises(ValueError, match="its header would be of 70254592 bytes"):
    _files.tensors(path)


def test_json_that_is_too_deep_is_refused(tmp_path):
  (tmp_path / "config.json").write_text("[" * 200_000)
  with pytest.raises(ValueError, match=r"config\.json is not JSON"):
    _files.read_json(tmp_path / "config.json")


@pytest.mark.parametrize(("changes", "said"), [
    ({"architecture": ["resnetv2_50x1_bit"]}, "architecture is "),
    ({"pretrained_cfg": 3}, "pretrained_cfg is 3"),
    ({"pretrained_cfg": {"input_size": 224}}, "input_size is 224"),
    ({"pretrained_cfg": {"input_size": [3, "224", 224]}}, "input_size is "),
    ({"pretrained_cfg": {"mean": 0.5}}, "mean is 0.5, ours is"),
    ({"pretrained_cfg": {"crop_mode": []}}, r"crop_mode is \[\]"),
])
def test_no_value_of_timms_is_an_error_of_pythons_own(changes, said):
  config = {"architecture": "resnetv2_50x1_bit", **changes}
  with pytest.raises(ValueError, match=said):
    timm._known(config)
    timm._pixels(config.get("pretrained_cfg") or {})
