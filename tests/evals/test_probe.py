"""Linear probes against scikit-learn, on the same features."""

import frozen
import numpy as np
import pytest
from scipy import stats
from sklearn import datasets, linear_model, metrics, preprocessing

from basic.evals import _linear, _selection
from basic.evals import probe as module

POINTS = 0.002 + 1e-9  # one of 500 examples


@pytest.fixture(scope="module")
def digits():
  """Embeddings of handwritten digits by a random layer, and their labels."""
  data = datasets.load_digits()
  layer = np.random.default_rng(0).normal(size=(64, 24)) / 8
  x = np.tanh(data.data / 8 @ layer).astype(np.float32)
  return x[:400], data.target[:400], x[400:900], data.target[400:900]


def run(x, y, x_asked, y_asked, rows=None, **settings):
  return module.probe(**settings)(
      frozen.encode, frozen.batches(rows, image=x_asked, label=y_asked),
      frozen.batches(rows, image=x, label=y),
  )


def theirs(x, y, l2):
  """scikit-learn's model at the same strength, run to its end."""
  c = (2 if len(set(y)) == 2 else 1) / l2
  solver = dict(solver="newton-cholesky", tol=1e-10, max_iter=1000)
  return linear_model.LogisticRegression(C=c, **solver).fit(np.float64(x), y)


@pytest.mark.parametrize("classes", [10, 2])
@pytest.mark.parametrize("l2", [1e-2, 1.0])
def test_coefficients_are_those_of_scikit_learn(double, digits, classes, l2):
  del double
  x, y, _, _ = digits
  x, y = np.float64(x)[y < classes], y[y < classes]
  expected = theirs(x, y, l2)
  model = _linear.of_classes(y, y, top=(1,), steps=2000, tolerance=1e-10)
  kernel, bias = model.fit(x, model.y)(l2)
  kernel, bias = np.asarray(kernel.T), np.asarray(bias)
  if classes == 2:  # There, one vector says how much more likely the second is.
    kernel, bias = kernel[1:] - kernel[:1], bias[1:] - bias[:1]
  np.testing.assert_allclose(kernel, expected.coef_, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
      bias - bias.mean() * (classes > 2),
      expected.intercept_ - expected.intercept_.mean() * (classes > 2),
      rtol=1e-4, atol=1e-4,
  )


@pytest.mark.parametrize("l2", [1e-4, 1e-1, 10.0])
def test_accuracy_is_within_a_fifth_of_a_point_of_scikit_learn(digits, l2):
  x, y, x_asked, y_asked = digits
  found = run(x, y, x_asked, y_asked, 64, l2=l2)
  expected = theirs(x, y, l2)
  assert found["@1"] == pytest.approx(expected.score(x_asked, y_asked), abs=POINTS)
  guessed = expected.predict(x_asked)
  recall = metrics.recall_score(y_asked, guessed, average="macro")
  assert found["/per_class@1"] == pytest.approx(recall, abs=0.0025)
  five = metrics.top_k_accuracy_score(
      y_asked, expected.decision_function(x_asked), k=5)
  assert found["@5"] == pytest.approx(five, abs=POINTS)
  assert found["/count"] == 500 and found["/reference_count"] == 400


def test_the_strength_is_that_of_the_same_search_with_scikit_learn(digits):
  x, y, x_asked, y_asked = digits
  found = run(x, y, x_asked, y_asked, standardize=True, tolerance=1e-7)
  held = _selection.held_out(y, 0.2, 0)
  assert np.bincount(y[held]).tolist() == [int(0.2 * n) for n in np.bincount(y)]

  scale = preprocessing.StandardScaler().fit(x[~held])

  def quality(l2):
    fitted = theirs(scale.transform(x[~held]), y[~held], l2)
    chances = fitted.predict_proba(scale.transform(x[held]))
    hits = np.mean(chances.argmax(1) == y[held])
    return hits, -metrics.log_loss(y[held], chances)

  assert found["/l2"] == pytest.approx(_selection.search(quality))
  scale = preprocessing.StandardScaler().fit(x)
  expected = theirs(scale.transform(x), y, found["/l2"])
  score = expected.score(scale.transform(x_asked), y_asked)
  assert found["@1"] == pytest.approx(score, abs=POINTS)


def test_the_search_halves_the_interval_around_the_best():
  tried = []

  def quality(l2):
    tried.append(l2)
    return -abs(np.log10(l2) - 2.6)

  assert _selection.search(quality) == pytest.approx(10**2.625)
  assert len(tried) == 15
  np.testing.assert_allclose(tried[:7], 10.0 ** np.arange(-6, 7, 2))
  assert _selection.search(lambda l2: 0) == pytest.approx(1e6)
  assert _selection.search(lambda l2: -l2) == pytest.approx(1e-6)


def test_what_is_held_out_is_a_share_of_each_class():
  labels = np.array([7] * 10 + [2] * 5 + [3])
  held = _selection.held_out(labels, 0.4, 1)
  assert [held[labels == c].sum() for c in (7, 2, 3)] == [4, 2, 0]
  assert (held != _selection.held_out(labels, 0.4, 2)).any()
  assert _selection.held_out(np.array([1, 2]), 0.4, 0).all()


def numbers(seed=0):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(90, 6)).astype(np.float32) + 3
  y = np.exp(x[:, 0] / 2) + x[:, 1] + 0.3 * rng.normal(size=90) + 50
  return x[:60], np.float32(y[:60]), x[60:], np.float32(y[60:])


@pytest.mark.parametrize("l2", [1e-3, 30.0])
def test_ridge_is_that_of_scikit_learn(l2):
  x, y, x_asked, y_asked = numbers()
  found = run(x, y, x_asked, y_asked, 16, l2=l2)
  guessed = linear_model.Ridge(alpha=l2).fit(x, y).predict(x_asked)
  assert found["/mae"] == pytest.approx(
      metrics.mean_absolute_error(y_asked, guessed), rel=1e-4)
  assert found["/r2"] == pytest.approx(metrics.r2_score(y_asked, guessed), rel=1e-4)
  rho = stats.spearmanr(y_asked, guessed).statistic
  assert found["/spearman"] == pytest.approx(rho, rel=1e-4)
  assert "@1" not in found


def test_the_strength_of_ridge_is_that_of_the_least_squared_error():
  x, y, x_asked, y_asked = numbers(1)
  held = _selection.held_out(np.zeros(60, int), 0.2, 0)
  assert held.sum() == 12

  def quality(l2):
    fitted = linear_model.Ridge(alpha=l2).fit(x[~held], y[~held])
    return -np.mean((fitted.predict(x[held]) - y[held]) ** 2)

  found = run(x, y, x_asked, y_asked)
  assert found["/l2"] == pytest.approx(_selection.search(quality))


def test_integers_are_numbers_where_that_is_said():
  x, y, x_asked, y_asked = numbers()
  y, y_asked = np.int32(y), np.int32(y_asked)
  assert "/mae" in run(x, y, x_asked, y_asked, l2=1.0, numbers=True)
  assert "/mae" not in run(x, y, x_asked, y_asked, l2=1.0, steps=2)


def test_standardised_features_forget_their_scale():
  x, y, x_asked, y_asked = numbers()
  scale = np.float32([1, 1e2, 1e-2, 1, 10, 1])
  plain = run(x, y, x_asked, y_asked, l2=5.0, standardize=True)
  scaled = run(x * scale, y, x_asked * scale, y_asked, l2=5.0, standardize=True)
  assert scaled == pytest.approx(plain, rel=1e-3)
  assert plain["/r2"] != pytest.approx(run(x, y, x_asked, y_asked, l2=5.0)["/r2"])


def test_views_lie_side_by_side():
  x, y, x_asked, y_asked = numbers()

  def batches(x, y):
    return frozen.batches(image=x[:, :2], text=x[:, 2:], label=y)

  split = module.probe(views=("image", "text"), l2=1.0)(
      frozen.encode, batches(x_asked, y_asked), batches(x, y))
  assert split == pytest.approx(run(x, y, x_asked, y_asked, l2=1.0))


def test_a_class_that_the_reference_lacks_is_a_miss():
  x = np.float32([[1, 0], [0, 1]])
  found = run(x, [3, 8], np.float32([[1, 0], [0, 1]]), [3, 5], l2=1e-2)
  assert found["@1"] == 0.5


def test_what_is_not_finite_ends_and_is_a_miss():
  x = np.float32([[np.nan, 0], [0, 1], [1, 0]])
  assert run(x, [0, 1, 0], x, [0, 1, 0])["@1"] == 0


@pytest.mark.parametrize("changes, sentence", [
    (dict(views=()), r"views=\(\)"), (dict(l2=0.0), "l2=0"),
    (dict(validation=1.0), "validation=1"), (dict(steps=0), "steps=0"),
    (dict(tolerance=0.0), "tolerance=0"), (dict(top=(0,)), r"top=\(0,\)"),
])
def test_what_cannot_be_meant_is_refused_at_once(changes, sentence):
  with pytest.raises(ValueError, match=sentence):
    module.probe(**changes)


def test_numbers_that_are_none_are_refused():
  x = np.ones((2, 2), np.float32)
  with pytest.raises(ValueError, match="needs one a row"):
    run(x, np.ones((2, 2)), x, np.ones((2, 2)))
