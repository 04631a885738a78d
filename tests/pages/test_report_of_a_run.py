"""The report is written into the folder of the run."""

import types as python_types

import jax.numpy as jnp
import numpy as np
import pytest

from basic import types
from basic.experiment import build
from basic.objectives import classification, sigmoid, softmax
from basic.pages import report
from basic.recording import manifest, recorder


def test_write_puts_the_page_into_the_folder(tmp_path):
  manifest.begin(tmp_path, {"batch_size": 8}, command=["train", "--x"])
  with recorder.Recorder(
      tmp_path, total=1, batch_size=8, tensorboard=False
  ) as writer:
    writer.write(1, {"loss": 1.5})
  target = report.write(tmp_path, None)
  assert target == tmp_path / "report.html"
  text = target.read_text()
  assert "train --x" in text
  assert "nats per row by step: loss" in text
  assert "8 examples" in text


def without_names():
  """An objective whose parameter has a name that nobody else knows."""
  return types.Objective(
      lambda rng, shapes: ({"beta": jnp.zeros(())}, ()), lambda *args: None,
      logits=lambda params: types.Logits(1 + params["beta"], -2.0),
  )


@pytest.mark.parametrize(("objective", "params", "expected"), [
    (softmax.softmax(max_scale=20.0), {"log_scale": 5.0}, 20.0),
    (sigmoid.sigmoid(), {"log_scale": 0.0, "bias": -1.0}, 1.0),
    (classification.classification(classes=3), {}, 1.0),
    (without_names(), {"beta": 6.0}, 7.0),
], ids=["softmax", "sigmoid", "classification", "without names"])
def test_the_scale_is_what_the_objective_says_of_its_logits(
    objective, params, expected
):
  shown = python_types.SimpleNamespace(
      images=[], captions=[],
      views={"image": np.ones((2, 3)), "text": np.ones((2, 3))},
  )
  stage = build.Stage(*(None for _ in build.Stage._fields))._replace(
      program=python_types.SimpleNamespace(objective=objective),
      evals=(python_types.SimpleNamespace(
          prefix="retrieval/", samples=lambda params, count: shown, answers=None
      ),),
  )
  params = {name: jnp.float32(value) for name, value in params.items()}
  found = report.held_out(stage, {"objective": params}).samples
  np.testing.assert_allclose(found.scale, expected, rtol=1e-6)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"no config\.json"):
    report.write(tmp_path, None)
