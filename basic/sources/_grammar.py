"""English in small: articles, plurals, lists, and where a thing stands."""

from collections.abc import Sequence

NUMBERS = (
    "zero", "one", "two", "three", "four",
    "five", "six", "seven", "eight", "nine",
)

# Nine cells of a picture in reading order.
PLACES = (
    "in the top left", "at the top", "in the top right",
    "on the left", "in the middle", "on the right",
    "in the bottom left", "at the bottom", "in the bottom right",
)


def a(words: str) -> str:
  """Puts the article that is spoken before a noun phrase.

  Example:
    >>> a("eight"), a("one"), a("orange star"), a("red ring")
    ('an eight', 'a one', 'an orange star', 'a red ring')
  """
  vowel = words[0] in "aeiou" and words.split()[0] != "one"  # said "wun"
  return f"{'an' if vowel else 'a'} {words}"


def plural(noun: str) -> str:
  """More than one of a noun.

  Example:
    >>> plural("six"), plural("two"), plural("zero"), plural("cross")
    ('sixes', 'twos', 'zeroes', 'crosses')
  """
  return noun + ("es" if noun.endswith(("s", "x", "zero")) else "s")


def join(phrases: Sequence[str]) -> str:
  """Lists phrases: commas, and "and" before the last.

  Example:
    >>> join(["a one", "a four", "a nine"])
    'a one, a four and a nine'
  """
  if len(phrases) == 1:
    return phrases[0]
  return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def beside(first: str, second: str) -> tuple[str, ...]:
  """Four ways to say that the first stands left of the second."""
  return (
      f"{first} to the left of {second}",
      f"{second} to the right of {first}",
      f"{first} left of {second}",
      f"{second} right of {first}",
  )


def above(first: str, second: str) -> tuple[str, ...]:
  """Four ways to say that the first stands above the second."""
  return (
      f"{first} above {second}",
      f"{second} below {first}",
      f"{first} over {second}",
      f"{second} under {first}",
  )
