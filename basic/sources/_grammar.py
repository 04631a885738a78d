"""English grammar for captions: articles, plurals, lists and positions."""

from collections.abc import Sequence

NUMBERS = (
    "zero", "one", "two", "three", "four",
    "five", "six", "seven", "eight", "nine",
)

# The nine cells of a 3 by 3 grid over the image, in reading order.
PLACES = (
    "in the top left", "at the top", "in the top right",
    "on the left", "in the middle", "on the right",
    "in the bottom left", "at the bottom", "in the bottom right",
)


def a(phrase: str) -> str:
  """Adds the indefinite article to a noun phrase.

  Example:
    >>> a("eight"), a("one"), a("orange star"), a("red ring")
    ('an eight', 'a one', 'an orange star', 'a red ring')
  """
  vowel = phrase[0] in "aeiou" and phrase.split()[0] != "one"  # said "wun"
  return f"{'an' if vowel else 'a'} {phrase}"


def plural(noun: str) -> str:
  """The plural of a noun.

  Example:
    >>> plural("six"), plural("two"), plural("zero"), plural("cross")
    ('sixes', 'twos', 'zeroes', 'crosses')
  """
  return noun + ("es" if noun.endswith(("s", "x", "zero")) else "s")


def join(phrases: Sequence[str]) -> str:
  """Joins phrases with commas, and with "and" before the last.

  Example:
    >>> join(["a one", "a four", "a nine"])
    'a one, a four and a nine'
  """
  if len(phrases) == 1:
    return phrases[0]
  return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def beside(first: str, second: str) -> tuple[str, ...]:
  """Four ways to say that the first is to the left of the second."""
  return (
      f"{first} to the left of {second}",
      f"{second} to the right of {first}",
      f"{first} left of {second}",
      f"{second} right of {first}",
  )


def above(first: str, second: str) -> tuple[str, ...]:
  """Four ways to say that the first is above the second."""
  return (
      f"{first} above {second}",
      f"{second} below {first}",
      f"{first} over {second}",
      f"{second} under {first}",
  )
