"""Which classes may be answered, and what prompts call them."""

import collections
import logging
import re
from collections.abc import Mapping, Sequence

_WORDNET = re.compile(r"n\d{8}")
_log = logging.getLogger(__name__)


def candidates(
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
