"""Parameter paths: flat and nested, split and merged, named by patterns."""

import pytest

from basic import paths

TREE = {
    "image": {"stem": {"kernel": 1, "bias": 2}, "norm": {"scale": 3}},
    "objective": {"log_scale": 4},
}


def test_flatten_and_unflatten_are_inverse():
  flat = paths.flatten(TREE)
  assert list(flat) == [
      "image/stem/kernel", "image/stem/bias", "image/norm/scale",
      "objective/log_scale",
  ]
  assert paths.unflatten(flat) == TREE


def test_empty_branches_are_gone():
  assert paths.unflatten(paths.flatten({"a": {}, "b": {"c": 1}})) == {
      "b": {"c": 1}
  }
  assert paths.flatten({}) == {} == paths.unflatten({})


@pytest.mark.parametrize(
    ("patterns", "path", "expected"),
    [
        ((".*/bias",), "image/stem/bias", True),
        (("bias",), "image/stem/bias", False),  # the whole path, not a part
        (("image",), "image/stem/bias", False),
        (("image/.*", "text/.*"), "text/x", True),
        ((), "image/stem/bias", False),
    ],
)
def test_a_pattern_matches_whole_paths_only(patterns, path, expected):
  assert paths.any_of(patterns)(path) is expected


def test_split_parts_and_merge_joins():
  trainable, frozen = paths.split(TREE, ("image/.*/kernel", "objective/.*"))
  assert trainable == {"image": {"stem": {"bias": 2}, "norm": {"scale": 3}}}
  assert frozen == {
      "image": {"stem": {"kernel": 1}}, "objective": {"log_scale": 4}
  }
  assert paths.merge(trainable, frozen) == TREE
  assert paths.merge(frozen, trainable) == TREE


def test_merge_walks_in_the_order_of_jax():
  assert list(paths.merge({"b": {"x": 1}}, {"a": {"y": 2}})) == ["a", "b"]


def test_map_paths_tells_each_leaf_where_it_is():
  found = paths.map_paths(lambda path, leaf: f"{path} {leaf}", TREE)
  assert found["image"]["stem"]["bias"] == "image/stem/bias 2"
