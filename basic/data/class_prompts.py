"""Classes that may be answered, what prompts call them, and their embeddings."""

import collections
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from basic import types
from basic.ops import normalize

_WORDNET = re.compile(r"n\d{8}")
_log = logging.getLogger(__name__)


def chosen(
    classes: Sequence[str], subset: Sequence[int | str] | None
) -> tuple[int, ...]:
  """The labels of the classes that may be answered.

  Args:
    classes: all classes of the source, in the order of the labels.
    subset: those that may be answered, as labels or as they are in `classes`;
      None: all.

  Returns:
    Their labels, in the order of `subset`.

  Raises:
    ValueError: if there is no class, or `subset` is empty, has a class twice, or
      one that does not exist.
  """
  if not classes:
    raise ValueError(
        "zeroshot found 0 classes and needs at least one: give `classes`, or a "
        "source whose classes have names."
    )
  if subset is None:
    return tuple(range(len(classes)))
  labels = {name: label for label, name in enumerate(classes)}
  found = [labels.get(c, -1) if isinstance(c, str) else c for c in subset]
  strange = [
      c for c, label in zip(subset, found, strict=True)
      if not 0 <= label < len(classes)
  ]
  if strange or not found or len(set(found)) < len(found):
    raise ValueError(
        f"zeroshot found a subset of {len(found)} with {len(set(found))} "
        f"different classes, of which {strange[:5]} do not exist: give class "
        f"numbers in 0..{len(classes) - 1}, or names that are in `classes`, such "
        f"as {classes[0]!r}, each once."
    )
  return tuple(found)


def said(
    classes: Sequence[str],
    names: Mapping[str, str] | None,
    chosen: Sequence[int],
) -> list[str]:
  """What prompts call the chosen classes; warns of those with equal names.

  Args:
    classes: all classes of the source, in the order of the labels.
    names: class -> what prompts say; None: the class itself.
    chosen: labels of the classes to name.

  Returns:
    One name for each chosen class.

  Raises:
    ValueError: if `names` lacks one of them, or there are no names and the classes
      are WordNet numbers.
  """
  own = [classes[label] for label in chosen]
  if names is None:
    if all(map(_WORDNET.fullmatch, own)):
      raise ValueError(
          f"zeroshot found classes that are WordNet numbers, such as {own[0]!r}, "
          "which are no words: give `names`, from number to name, or `classes`, "
          "the names in the order of the labels."
      )
    found = own
  else:
    without = [name for name in own if name not in names]
    if without:
      raise ValueError(
          f"zeroshot found no name for {len(without)} of {len(own)} classes, the "
          f"first of them {without[0]!r}: add it to `names`, or narrow `subset`."
      )
    found = [names[name] for name in own]
  _warn_of_equal(found)
  return found


def _warn_of_equal(names):
  """A warning that names what no prompt can tell apart."""
  labels = collections.defaultdict(list)
  for name in names:
    labels[" ".join(name.casefold().split())].append(name)
  equal = [each for each in labels.values() if len(each) > 1]
  if equal:
    _log.warning(
        "%d names are those of several classes, whose prompts are equal, so that "
        "only the first of each can be answered: %s. Give them different names.",
        len(equal), ", ".join(f"{each[0]!r} x {len(each)}" for each in equal[:10]),
    )


def candidates(
    *,
    classes: Sequence[str],
    subset: Sequence[int | str] | None,
    names: Mapping[str, str] | None,
) -> tuple[tuple[int, ...], tuple[str, ...]]:
  """The classes that may be answered.

  Args:
    classes: names of all, in the order of the labels.
    subset: labels, or as they are in `classes`; None: all.
    names: what prompts say for each of `classes`; None: `classes` themselves.

  Returns:
    (their labels, what prompts call them).

  Raises:
    ValueError: as `zeroshot`.
  """
  labels = chosen(classes, subset)
  return labels, tuple(said(classes, names, labels))


def prompts(names: Sequence[str], templates: Sequence[str]) -> list[str]:
  """The prompts of all classes: every template of the first, then of the second.

  Example:
    >>> prompts(("cat", "dog"), ("a {}", "{}"))
    ['a cat', 'cat', 'a dog', 'dog']
  """
  return [each.replace("{}", name) for name in names for each in templates]


def embeddings(
    encode: Callable[[types.Batch], types.Embedded],
    text: str,
    tokenize: Callable[[Sequence[str]], Int[np.ndarray, "n t"]],
    prompts: Sequence[str],
    ways: int,
    batch_size: int,
) -> jax.Array:
  """w [c d], unit vectors: the mean direction of each run of `ways` prompts.

  Args:
    encode: the towers.
    text: the view of the prompts, and the field of a batch that it reads.
    tokenize: strings -> ids [n t] with a constant t.
    prompts: `ways` for each class, one class after the other.
    ways: number of templates.
    batch_size: rows of every batch of prompts; id 0 fills the last one.

  Returns:
    Float [c d], with c = len(prompts) / ways.
  """
  total = None
  for start in range(0, len(prompts), batch_size):
    tokens = np.asarray(tokenize(prompts[start : start + batch_size]), np.int32)
    rows = len(tokens)
    padded = np.pad(tokens, ((0, batch_size - rows), (0, 0)))
    y = np.asarray(embed(encode, text, padded))[:rows]
    if total is None:
      total = np.zeros((len(prompts) // ways, y.shape[1]), y.dtype)
    np.add.at(total, np.arange(start, start + rows) // ways, y)
  return normalize.unit(jnp.asarray(total))


def embed(
    encode: Callable[[types.Batch], types.Embedded], field: str, rows: Any
) -> jax.Array:
  """Unit embeddings of one view, in the memory of this process.

  Args:
    encode: the towers.
    field: the view, and the field of a batch that it reads.
    rows: the field, [b ...].

  Returns:
    Float [b d].
  """
  pooled = np.asarray(encode({field: rows}).views[field].pooled)
  return normalize.unit(jnp.asarray(pooled))
