"""Classification against loops over rows and classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basic import types
from basic.objectives import classification

ROWS, WIDTH, CLASSES = 5, 4, 3
IDS = np.array([2, 0, 1, 1, 0])
# -1 stands for none, and a class that is named twice counts once.
SETS = np.array([[2, -1, 2], [-1, -1, -1], [0, 1, 2], [1, 0, -1], [-1, 0, 0]])


def embedded(label, dtype=jnp.float32):
  x = np.random.default_rng(0).normal(size=(ROWS, WIDTH))
  features = types.Features(jnp.asarray(x, dtype))
  return types.Embedded({"image": features}, {"label": jnp.asarray(label)})


def drawn():
  draw = np.random.default_rng(3)
  return {
      "kernel": draw.normal(size=(WIDTH, CLASSES)),
      "bias": draw.normal(size=CLASSES),
  }


def evaluate(label, **settings):
  """(value, metrics) by random parameters."""
  objective = classification.classification(classes=CLASSES, **settings)
  params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), drawn())
  value, (memory, metrics) = objective.apply(
      params, (), embedded(label), None
  )
  assert memory == ()
  return value, metrics


def logits():
  x = np.asarray(embedded(IDS).views["image"].pooled, np.float64)
  return x @ drawn()["kernel"] + drawn()["bias"]


def softmax(smoothing):
  total = 0.0
  for s, label in zip(logits(), IDS, strict=True):
    for k in range(CLASSES):
      q = (1 - smoothing) * (k == label) + smoothing / CLASSES
      total -= q * np.log(np.exp(s[k]) / np.exp(s).sum())
  return total / ROWS


def sigmoid(sets, smoothing):
  total = 0.0
  for s, names in zip(logits(), sets, strict=True):
    for k in range(CLASSES):
      q = (1 - smoothing) * (k in names) + smoothing / 2
      p = 1 / (1 + np.exp(-s[k]))
      total -= q * np.log(p) + (1 - q) * np.log(1 - p)
  return total / ROWS


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_softmax_is_its_equation(smoothing):
  value, metrics = evaluate(IDS, smoothing=smoothing)
  np.testing.assert_allclose(value, softmax(smoothing), rtol=1e-5)  # float32
  hits = logits().argmax(1) == IDS
  assert 0 < hits.mean() < 1  # or the next line would say little
  np.testing.assert_allclose(metrics["accuracy@1"], hits.mean(), rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("form", ["one", "many", "shares"])
def test_sigmoid_is_its_equation(form, smoothing):
  sets = [{k} for k in IDS] if form == "one" else [set(row) for row in SETS]
  labels = {
      "one": IDS,
      "many": SETS,
      "shares": np.array([[k in s for k in range(CLASSES)] for s in sets]),
  }[form]
  for label in (labels, labels.astype(np.float32))[: 1 + (form == "shares")]:
    value, metrics = evaluate(label, kind="sigmoid", smoothing=smoothing)
    np.testing.assert_allclose(value, sigmoid(sets, smoothing), rtol=1e-5)
    best = logits().argmax(1)
    hits = [k in s for k, s in zip(best, sets, strict=True) if s - {-1}]
    np.testing.assert_allclose(metrics["accuracy@1"], np.mean(hits), rtol=1e-6)


def test_rows_without_any_class_have_an_accuracy_of_0():
  _, metrics = evaluate(np.full((ROWS, 2), -1), kind="sigmoid")
  assert metrics["accuracy@1"] == 0


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_large_logits_stay_finite(kind):
  objective = classification.classification(classes=CLASSES, kind=kind)
  params = {
      "kernel": 1e4 * jnp.ones((WIDTH, CLASSES)), "bias": jnp.zeros(CLASSES)
  }
  value, grads = jax.value_and_grad(
      lambda p: objective.apply(p, (), embedded(IDS), None)[0]
  )(params)
  for leaf in jax.tree.leaves((value, grads)):
    assert np.isfinite(leaf).all()


@pytest.mark.parametrize(
    ("kind", "bias"), [("softmax", 0.0), ("sigmoid", -np.log(CLASSES))]
)
def test_a_new_classifier_expects_one_class_per_row(kind, bias):
  objective = classification.classification(classes=CLASSES, kind=kind)
  params, memory = objective.init(
      jax.random.key(0), jax.eval_shape(lambda: embedded(IDS))
  )
  assert memory == ()
  assert params["kernel"].shape == (WIDTH, CLASSES)
  np.testing.assert_allclose(params["bias"], bias, rtol=1e-6)
  assert {leaf.dtype for leaf in params.values()} == {jnp.dtype("float32")}


def test_the_kernel_gives_logits_of_order_one():
  objective = classification.classification(classes=500)
  x = jax.random.normal(jax.random.key(1), (200, 256))
  z = types.Embedded({"image": types.Features(x)}, {})
  params, _ = objective.init(jax.random.key(0), z)
  # 100,000 draws, not all independent: within 2%.
  assert float(jnp.std(x @ params["kernel"])) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        ("softmax", [0, 1, 2, 3, 0]),
        ("softmax", [0, 1, 2, -1, 0]),
        ("sigmoid", [0, 1, 2, 3, 0]),
        ("sigmoid", [[0, -2]] * ROWS),
        ("sigmoid", [[0.0, 1.0, 1.5]] * ROWS),
        ("sigmoid", [[0.0, np.nan, 1.0]] * ROWS),
    ],
)
def test_a_value_that_is_no_class_makes_the_loss_nan(kind, label):
  value, _ = evaluate(np.array(label), kind=kind)
  assert np.isnan(value)


@pytest.mark.parametrize(
    ("kind", "label", "message"),
    [
        ("softmax", SETS, r"int32\[5, 3\].*by softmax takes integers \[b\]\."),
        ("softmax", IDS / 2, r"float32\[5\]"),
        ("sigmoid", np.zeros((ROWS, 2)), r"or shares \[b 3\]"),
        ("sigmoid", np.zeros((ROWS, 2, 2), int), r"int32\[5, 2, 2\]"),
    ],
)
def test_labels_of_another_form_are_refused(kind, label, message):
  with pytest.raises(ValueError, match=message):
    evaluate(label, kind=kind)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(classes=1), "classes is 1.*at least 2"),
        (dict(classes=0, kind="sigmoid"), "classes is 0.*at least 1"),
        (dict(classes=3, smoothing=1.0), "smoothing is 1.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    classification.classification(**settings)


def test_another_view_and_field_may_be_named():
  objective = classification.classification(
      classes=CLASSES, view="crop", label="digit"
  )
  z = embedded(IDS)
  z = types.Embedded({"crop": z.views["image"]}, {"digit": z.side["label"]})
  params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), drawn())
  value, _ = objective.apply(params, (), z, None)
  np.testing.assert_allclose(value, softmax(0.0), rtol=1e-5)  # float32
