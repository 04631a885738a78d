"""Parameter paths, and the patterns that match them.

A path is the keys of a nested dict joined by "/": "image/blocks/mlp/in/kernel".
A pattern is a regular expression that must match the whole path. Such patterns
select parameters everywhere: for sharding, weight decay, learning rate
multipliers and freezing.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Maps the path of every leaf of a nested dict to the leaf, in its order.

  Example:
    >>> flatten({"a": {"b": 1, "c": 2}})
    {'a/b': 1, 'a/c': 2}
  """
  leaves = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      leaves.update(flatten(value, f"{prefix}{key}/"))
    else:
      leaves[f"{prefix}{key}"] = value
  return leaves


def of_keys(keys: tuple[Any, ...]) -> str:
  """A key path of JAX as a path: "opt_state/0/mu/image/encoder/norm/scale".

  Example:
    >>> of_keys(jax.tree_util.tree_leaves_with_path({"a": [1]})[0][0])
    'a/0'
  """
  return jax.tree_util.keystr(keys, simple=True, separator="/")


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `flatten`, without empty branches.

  Example:
    >>> unflatten({"a/b": 1, "a/c": 2})
    {'a': {'b': 1, 'c': 2}}
  """
  tree: dict[str, Any] = {}
  for path, leaf in leaves.items():
    *branch, last = path.split("/")
    node = tree
    for key in branch:
      node = node.setdefault(key, {})
    node[last] = leaf
  return tree


def any_of(patterns: Iterable[str]) -> Callable[[str], bool]:
  """Whether one of the patterns matches a whole path.

  Raises:
    ValueError: if a pattern is not a regular expression.

  Example:
    >>> any_of(("image/.*",))("image/stem/kernel")
    True
  """
  compiled = [_compile(pattern) for pattern in patterns]
  return lambda path: any(p.fullmatch(path) for p in compiled)


def _compile(pattern: str) -> re.Pattern[str]:
  try:
    return re.compile(pattern)
  except re.error as error:
    raise ValueError(
        f"the pattern {pattern!r} is not a regular expression: {error}. To "
        "match every path below image, write 'image/.*'."
    ) from error


def check_patterns(
    setting: str, patterns: Iterable[str], known: Sequence[str]
) -> None:
  """Refuses patterns that match nothing, or a misspelt one would go unnoticed.

  Args:
    setting: that holds the patterns, for messages: "frozen".
    patterns: each has to match one of the paths.
    known: the paths.

  Raises:
    ValueError: if a pattern matches none, or is not a regular expression.
  """
  for pattern in patterns:
    if not any(map(any_of((pattern,)), known)):
      raise ValueError(
          f"the pattern {pattern!r} of {setting} matches no parameter; it must "
          f"match a whole path, such as {', '.join(known[:4])}, ..."
      )


def split(
    tree: Mapping[str, Any], frozen: Iterable[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Splits parameters into trainable and frozen ones.

  Args:
    tree: nested dict.
    frozen: patterns; a path that one of them matches is frozen.

  Returns:
    (trainable, frozen), nested dicts without empty branches; `merge` is the
    inverse.
  """
  is_frozen = any_of(frozen)
  leaves = flatten(tree)
  return (
      unflatten({p: x for p, x in leaves.items() if not is_frozen(p)}),
      unflatten({p: x for p, x in leaves.items() if is_frozen(p)}),
  )


def merge(*trees: Mapping[str, Any]) -> dict[str, Any]:
  """Joins nested dicts with different paths.

  Keys are sorted, which is the order in which JAX traverses a dict.
  """
  leaves: dict[str, Any] = {}
  for tree in trees:
    leaves.update(flatten(tree))
  return unflatten(dict(sorted(leaves.items())))


def map_paths(
    function: Callable[[str, Any], Any], tree: Mapping[str, Any]
) -> dict[str, Any]:
  """Applies `function(path, leaf)` to every leaf of a nested dict."""
  return unflatten({p: function(p, x) for p, x in flatten(tree).items()})
