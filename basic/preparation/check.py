"""Reads examples of a source and says what keeps a run from using it."""

from basic import sources, types


def check(*, source: types.Source, examples: int = 64) -> types.Counts:
  """Says what a source lacks (basic.sources.check), and what is unreadable.

  Args:
    source: settings of the source: {"name": "folder", "path": "pictures"}.
    examples: number of examples to read, at equal distances.

  Returns:
    The number of examples, of those read, and of unreadable ones by reason.

  Raises:
    ValueError: if something is missing; one line for each fault.
  """
  faults = sources.check(source, examples)
  if faults:
    raise ValueError("\n".join(["the source cannot be used as it is:", *faults]))
  counts = {"examples": len(source), "read": 0}
  for position in range(min(examples, len(source))):
    index = position * len(source) // min(examples, len(source))
    try:
      example = source[index]
      if hasattr(example.get("image"), "decode"):
        example["image"].decode()
      counts["read"] += 1
    except types.Unreadable as error:
      name = f"unreadable/{error.reason}"
      counts[name] = counts.get(name, 0) + 1
  return counts
