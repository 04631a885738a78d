"""Says in words what an object lacks to be a `types.Source`."""

import pickle
from collections.abc import Iterator, Mapping
from concurrent import futures
from typing import Any

import numpy as np

from basic import types
from basic.data import decoding

_TEXT = ("text", "text_weights", "text_languages")  # as long as there are captions


def check(source: Any, examples: int = 64) -> list[str]:
  """What keeps an object from being a source, or makes it a worse one.

  Args:
    source: to be checked; `types.Source` is the contract.
    examples: how many examples to read, at equal distances.

  Returns:
    Sentences, each with what was found and what is expected; [] if there is
    nothing to say.

  Example:
    >>> check([])
    ['len(source): found 0; a source has at least one example.']
  """
  try:
    length = len(source)
  except Exception as error:
    return [f"len(source): {_said(error)}; expected the number of examples."]
  if length < 1:
    return [f"len(source): found {length}; a source has at least one example."]
  indices = sorted({
      int(i) for i in np.linspace(0, length - 1, min(examples, length))
  })
  read: dict[int, Mapping[str, Any]] = {}
  faults = [*_attributes(source, length)]
  for index in indices:
    faults += _read(source, index, read)
  for index, example in read.items():
    faults += _fields(source, index, example)
  faults += [*_equal_fields(read), *_unequal_ids(read)]
  faults += [*_end(source, length), *_copies(source, read)]
  return list(dict.fromkeys(faults))


def _said(error: BaseException) -> str:
  return f"raised {type(error).__name__}: {error}"


def _attributes(source, length: int) -> Iterator[str]:
  """Faults of the optional attributes."""
  fingerprint = getattr(source, "fingerprint", None)
  if fingerprint is None:
    yield (
        "source.fingerprint: there is none, so a run cannot tell when the data "
        "has changed; give a str that depends on the examples."
    )
  elif not isinstance(fingerprint, str):
    yield f"source.fingerprint: found {fingerprint!r}; expected a str."
  classes = getattr(source, "classes", ())
  if not isinstance(classes, tuple) or not all(
      isinstance(name, str) for name in classes
  ):
    yield f"source.classes: found {classes!r:.80}; expected a tuple of str."
  elif len(set(classes)) < len(classes):
    yield "source.classes: two classes have the same name; names are unique."
  yield from _order(source, length)
  shards = np.asarray(getattr(source, "shards", (0,)))
  if not (
      shards.ndim == 1 and len(shards) and shards[0] == 0
      and (np.diff(shards) > 0).all() and shards[-1] < length
  ):
    yield (
        "source.shards: expected the first index of each file, ascending from 0 "
        f"and below {length}."
    )


def _order(source, length: int) -> Iterator[str]:
  """Faults of a source's own order."""
  order = getattr(source, "order", None)
  if order is None:
    return
  try:
    found = [order(0)(position) for position in (0, 1, length)]
  except Exception as error:
    yield (
        f"source.order(0): {_said(error)}; expected a function from a position, "
        "from 0 without end, to an index."
    )
    return
  for index in found:
    if not isinstance(index, int | np.integer) or not 0 <= index < length:
      yield (
          f"source.order(0): gave {index!r:.40}; expected integers from 0 to "
          f"{length - 1}."
      )


def _read(source, index: int, read: dict) -> Iterator[str]:
  """Reads an example into `read`; faults of reading it."""
  try:
    example = source[index]
  except types.Unreadable:
    return
  except Exception as error:
    yield (
        f"source[{index}]: {_said(error)}, which ends a run; if the example "
        "cannot be read, raise types.Unreadable(reason), which is counted."
    )
    return
  if isinstance(example, Mapping):
    read[index] = example
  else:
    yield f"source[{index}]: found {type(example).__name__}; expected a dict."


def _fields(source, index: int, example) -> Iterator[str]:
  """Faults of the fields of an example."""
  where = f"source[{index}]"
  if "image" in example:
    yield from _image(f'{where}["image"]', example["image"])
  if "text" in example:
    yield from _text(f'{where}["text"]', example)
  if "label" in example:
    label = np.asarray(example["label"])
    classes = len(getattr(source, "classes", ()) or ())
    if label.dtype.kind not in "iu" or label.ndim > 1:
      yield (
          f'{where}["label"]: found {label.dtype} {list(label.shape)}; expected '
          "an integer, or integers [m] padded with -1."
      )
    elif classes and not ((label >= -1) & (label < classes)).all():
      yield (
          f'{where}["label"]: found {label.tolist()}, and source.classes names '
          f"{classes}; labels count from 0."
      )
  for name in example.keys() - {"image", "label", *_TEXT}:
    if np.asarray(example[name]).dtype.kind not in "biufUS":
      yield (
          f"{where}[{name!r}]: found {type(example[name]).__name__}, which no "
          "batch can hold; give numbers, arrays or text, or leave it out."
      )


def _image(where: str, image) -> Iterator[str]:
  if isinstance(image, decoding.Encoded):
    try:
      image.decode()
    except types.Unreadable:
      pass  # Training counts it.
    return
  if isinstance(image, bytes):
    yield (
        f"{where}: found bytes; wrap the content of a file in "
        "basic.data.decoding.Encoded, or decode it."
    )
    return
  array = np.asarray(image)
  if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] not in (1, 3):
    yield (
        f"{where}: found {array.dtype} {list(array.shape)}; expected uint8 "
        "[h w 3] or [h w 1]."
    )


def _text(where: str, example) -> Iterator[str]:
  text = example["text"]
  captions = text if isinstance(text, tuple | list) else (text,)
  if not captions or not all(
      isinstance(caption, str) and caption.strip() for caption in captions
  ):
    yield (
        f"{where}: found {text!r:.80}; expected a caption, or a tuple of "
        "captions, none of them blank."
    )
  weights = example.get("text_weights")
  if weights is not None and not (
      len(weights) == len(captions) and min(weights) >= 0 and sum(weights) > 0
  ):
    yield (
        f"{where}: {len(captions)} captions have text_weights {weights!r:.80}; "
        "expected one non-negative number each, not all of them 0."
    )
  languages = example.get("text_languages")
  if languages is not None and not (
      isinstance(languages, tuple | list) and len(languages) == len(captions)
      and all(isinstance(language, str) for language in languages)
  ):
    yield (
        f"{where}: {len(captions)} captions have text_languages "
        f"{languages!r:.80}; expected the name of a language each, '' for none."
    )


def _equal_fields(read) -> Iterator[str]:
  """Faults of examples that cannot be in one batch."""
  if not read:
    return
  first = min(read)
  for index, example in read.items():
    if example.keys() != read[first].keys():
      yield (
          f"source[{index}] has the fields {sorted(example)}, source[{first}] "
          f"{sorted(read[first])}; all examples have the same."
      )
      continue
    for name in example.keys() - {"image", *_TEXT}:
      shapes = [np.shape(each[name]) for each in (example, read[first])]
      if shapes[0] != shapes[1]:
        yield (
            f"source[{index}][{name!r}] has the shape {list(shapes[0])}, that of "
            f"source[{first}] {list(shapes[1])}; all examples have the same."
        )


def _unequal_ids(read) -> Iterator[str]:
  ids = [str(example["id"]) for example in read.values() if "id" in example]
  if len(set(ids)) < len(ids):
    yield 'source[...]["id"]: two examples have the same; ids are unique.'


def _end(source, length: int) -> Iterator[str]:
  try:
    source[length]
  except IndexError:
    return
  except Exception as error:
    yield f"source[len(source)]: {_said(error)}; expected an IndexError."
    return
  yield "source[len(source)]: found an example; expected an IndexError."


def _copies(source, read) -> Iterator[str]:
  """Faults of reading again, in threads, and in a pickled copy."""
  indices = list(read)
  with futures.ThreadPoolExecutor(4) as pool:
    again = list(pool.map(lambda index: _attempt(source, index), indices * 2))
  for index, example in zip(indices * 2, again, strict=True):
    if not _same(example, read[index]):
      yield (
          f"source[{index}]: reading it again, in a thread, gave something else; "
          "an example is a function of the index alone."
      )
      break
  try:
    copy = pickle.loads(pickle.dumps(source))
  except Exception as error:
    yield (
        f"pickle.dumps(source): {_said(error)}; worker processes need a copy: "
        "reopen files in __setstate__."
    )
    return
  for index in indices[:4]:
    if not _same(_attempt(copy, index), read[index]):
      yield f"source[{index}]: a pickled copy of the source gives something else."
  if getattr(copy, "fingerprint", None) != getattr(source, "fingerprint", None):
    yield "source.fingerprint: a pickled copy of the source has another one."


def _attempt(source, index: int) -> Any:
  try:
    return source[index]
  except Exception as error:
    return error


def _same(one: Any, two: Mapping[str, Any]) -> bool:
  """Whether two examples are equal, images by their pixels or their files."""
  if not isinstance(one, Mapping) or one.keys() != two.keys():
    return False
  return all(_equal(one[name], two[name]) for name in two)


def _equal(one: Any, two: Any) -> bool:
  if isinstance(one, decoding.Encoded) or isinstance(two, decoding.Encoded):
    return one == two
  return np.array_equal(np.asarray(one), np.asarray(two))
