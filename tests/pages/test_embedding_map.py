"""The map is that of principal component analysis, and always the same."""

import re

import made
import numpy as np
import pytest
from sklearn import decomposition

from basic.pages import embedding_map


@pytest.mark.parametrize("shape", [(40, 16), (5, 16), (40, 3)])
def test_coordinates_are_those_of_another_library(shape):
  z = np.random.default_rng(0).normal(size=shape)
  found, part = embedding_map.principal(z)
  known = decomposition.PCA(2, svd_solver="full").fit(z)
  # Both are signed; ours by the largest entry of a component.
  theirs = known.components_
  signs = np.sign([row[np.abs(row).argmax()] for row in theirs])
  np.testing.assert_allclose(found, known.transform(z) * signs, atol=1e-9)
  np.testing.assert_allclose(part, known.explained_variance_ratio_, atol=1e-12)


def test_turning_all_rows_around_turns_the_map_and_no_sign():
  z = np.random.default_rng(1).normal(size=(30, 8))
  one, _ = embedding_map.principal(z)
  two, _ = embedding_map.principal(z[::-1])
  np.testing.assert_allclose(one[::-1], two, atol=1e-9)


@pytest.mark.parametrize("z", [np.ones((1, 8)), np.ones((5, 8)), np.ones((5, 1)),
                               np.arange(4.0)[:, None]])
def test_rows_that_differ_in_less_than_two_directions_have_a_map(z):
  found, part = embedding_map.principal(z)
  assert found.shape == (len(z), 2) and np.isfinite(part).all()
  assert (found[:, 1] == 0).all() or z.shape[1] > 1


def test_the_gap_is_the_distance_of_the_means():
  x, y = np.random.default_rng(2).normal(size=(2, 7, 5))
  expected = sum((x[:, k].sum() / 7 - y[:, k].sum() / 7) ** 2 for k in range(5))
  np.testing.assert_allclose(embedding_map.gap(x, y), expected ** 0.5)


def test_every_image_and_caption_has_a_dot_with_its_caption_inside_the_frame():
  shown = made.samples(6)
  text = embedding_map.section(shown)
  for i in range(6):
    assert f"<title>image: caption {i}</title>" in text
    assert f"<title>caption: caption {i}</title>" in text
  places = re.findall(r'cx="([\d.-]+)" cy="([\d.-]+)"', text)
  assert len(places) == 2 * 6 + 2  # and the means
  for x, y in places:
    assert 0 <= float(x) <= 1000 and 0 <= float(y) <= 560
  assert "modality gap" in text


def test_without_text_it_is_a_map_of_images():
  text = embedding_map.section(made.samples(6)._replace(text_embeddings=None))
  assert text.count("<circle") == 6 and "modality gap" not in text
