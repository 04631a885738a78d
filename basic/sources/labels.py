"""Classification data as captions: the names of an image's classes in prompts.

Labeled images, such as JFT's, then train a text tower, alone or in a mixture with
captioned ones.
"""

from typing import SupportsIndex

from basic import types
from basic.data import captions
from basic.sources import _stable


def labels(
    *,
    source: types.Source,
    templates: tuple[str, ...] = ("{}",),
    joiner: str = " and ",
    label: str = "label",
) -> types.Source:
  """Gives each image of a labeled source a caption for each template.

  A caption is that of `data.captions`: the names of the classes, joined, in the
  template. Names of several classes are in an order that is drawn for each
  example and template, and is the same whenever the example is read.

  Args:
    source: has `classes`, the names of its labels.
    templates: each contains "{}", where the names go. Not empty.
    joiner: the separator of two names.
    label: the field of an example with its classes: an integer, or integers
      [m], of which -1 is padding.

  Returns:
    The examples of `source`, with "text" (a tuple of captions, one for each
    template, of which training draws one) in place of its own captions; its
    `classes`, `shards` and `order`. Reading raises `types.Unreadable` for an
    example without a class, and ValueError for a label that is no class.

  Raises:
    ValueError: if `source` has no `classes`, or `templates` is empty or has one
      without "{}".
  """
  return _Labels(source, templates, joiner, label)


class _Labels:
  """See `labels`."""

  def __init__(
      self, source: types.Source, templates: tuple[str, ...], joiner: str,
      label: str,
  ):
    self._source = source
    self.classes = tuple(getattr(source, "classes", ()) or ())
    captions.captions(
        classes=self.classes, templates=templates, joiner=joiner, label=label
    )  # Says what is wrong with all of them.
    self._captions = [
        captions.captions(
            classes=self.classes, templates=(template,), joiner=joiner,
            label=label,
        ) for template in templates
    ]
    settings = (tuple(templates), joiner, label, self.classes)
    self._key = _stable.key("labels", *settings)
    own = getattr(source, "fingerprint", None)
    if own is not None:
      self.fingerprint = _stable.fingerprint("labels", *settings, own)
    for name in ("shards", "order", "where"):
      if hasattr(source, name):
        setattr(self, name, getattr(source, name))

  @property
  def state(self) -> str | None:
    return getattr(self._source, "state", None)

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: SupportsIndex) -> types.Example:
    index = _stable.position(index, len(self))
    example = dict(self._source[index])
    for field in ("text_weights", "text_languages"):
      example.pop(field, None)
    rng = _stable.generator(self._key, index)
    text = (caption(example, rng) for caption in self._captions)
    return {**example, "text": tuple(text)}
