"""Checks of single groups of settings, beyond their types."""

from collections.abc import Mapping
from typing import Any

from basic.experiment import manual


def looks(full: Mapping[str, Any]) -> None:
  """Rejects looks that nobody reads, and looks of embeddings.

  Args:
    full: complete configuration.

  Raises:
    ValueError: if no view reads them, evaluations would see images of another
      size, or their images are replaced by stored embeddings.
  """
  if not full["looks"]:
    return
  views = full["views"] or {k: k for k in ("image", "text") if full[k]}
  if not set(full["looks"]) & set(views):
    raise ValueError(
        f"looks are {sorted(full['looks'])}, and views read {sorted(views)}: no "
        "tower would see an image. Name the looks in views, such as "
        f"views={{{sorted(full['looks'])[0]!r}: 'image'}}, or name a look 'image'."
    )
  size = full["augment"]["size"]
  if full["evals"] and size is None:
    raise ValueError(
        "augment.size is not set, so evaluations would see images of another size "
        "than the looks: set it to the size of the looks."
    )
  if full["stored"]:
    raise ValueError(
        f"stored={full['stored']} replaces images by embeddings that are "
        "computed once, and looks are drawn anew each time; leave one out."
    )


def unreadable(group: Mapping[str, Any]) -> None:
  """Rejects a fraction beyond 0 to 1, and times that are not positive.

  Args:
    group: complete settings `unreadable`.

  Raises:
    ValueError: if one of them is out of its range.
  """
  if group["window"] < 1:
    raise ValueError(
        f"unreadable.window is {group['window']}; it takes a number of at least 1."
    )
  if not 0 <= group["most"] <= 1:
    raise ValueError(
        f"unreadable.most is {group['most']}; it takes a fraction of the examples, "
        "0 to 1."
    )
  if group["listed"] < 0:
    raise ValueError(
        f"unreadable.listed is {group['listed']}; it takes a number of examples."
    )
  for name in ("warn_after", "stop_after"):
    if group[name] is not None and not group[name] > 0:
      raise ValueError(
          f"unreadable.{name} is {group[name]}; it takes seconds, more than 0."
      )


def weights(group: Mapping[str, Any] | None) -> None:
  """Rejects settings of an own run for weights of other projects.

  Args:
    group: complete settings `weights`; None without pretrained weights.

  Raises:
    ValueError: if `step` or `optimizer` is set and `name` is a foreign format.
  """
  if group is None or group["name"] == manual.OWN:
    return
  for name in ("step", "optimizer"):
    if group[name] not in (None, False):
      raise ValueError(
          f"weights.{name} is {group[name]}, and weights of {group['name']!r} have "
          f"none; only those of an own run, with name={manual.OWN!r}, do."
      )
