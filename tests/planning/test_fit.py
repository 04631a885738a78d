"""Whether a step fits in memory, with how many chunks, and the sentence."""

import pytest

from basic.planning import fit

GIB = 2**30


def ask(memory, *, fixed=10, activations=100, chunks=1, batch_size=64):
  """A step of `fixed` GiB and activations that chunks divide."""
  asked = []

  def needs(count):
    asked.append(count)
    return (fixed + activations // count) * GIB

  counts = fit.counts(batch_size, 1)
  found = fit.fit(
      needs, memory=memory * GIB, chunks=chunks, counts=counts,
      batch_size=batch_size, configured=needs(chunks),
  )
  return found, asked


@pytest.mark.parametrize("memory", [9, 11, 13, 16, 22, 35, 60, 110, 200])
def test_the_fewest_chunks_are_those_of_an_exhaustive_search(memory):
  counts = fit.counts(64, 1)
  fitting = [c for c in counts if 10 + 100 // c <= memory]
  found, _ = ask(memory)
  assert found.fewest_chunks == (min(fitting) if fitting else None)
  assert found.fits == (110 <= memory)


def test_few_of_many_counts_are_compiled():
  _, asked = ask(20, batch_size=2**16)
  assert len(fit.counts(2**16, 1)) == 17
  assert len(asked) <= 6


def test_numbers_of_chunks_divide_the_rows_of_a_device():
  assert fit.counts(96, 8) == [1, 2, 3, 4, 6, 12]


def test_the_sentence_says_how_many_chunks_would_fit():
  found, _ = ask(80, fixed=13, activations=80)
  assert fit.sentence(found) == "needs 93 GiB, has 80; 2 chunks would fit"
  assert found.largest_chunk == 32


def test_the_sentence_says_that_no_number_of_chunks_fits():
  found, _ = ask(9)
  assert fit.sentence(found).startswith(
      "needs 110 GiB, has 9; no number of chunks fits, the most still need "
      "11 GiB"
  )


def test_the_sentence_says_how_few_chunks_are_enough():
  found, _ = ask(80, fixed=10, activations=90, chunks=8)
  assert fit.sentence(found) == (
      "fits: needs 21 GiB, has 80; 2 chunks of 32 rows are enough"
  )
  found, _ = ask(200)
  assert fit.sentence(found).endswith("1 chunk of 64 rows is enough")


@pytest.mark.parametrize(("text", "bytes"), [
    ("80GiB", 80 * GIB), ("80 GB", 80 * 10**9), ("1.5kib", 1536), ("7", 7),
])
def test_a_memory_size_is_parsed(text, bytes):
  assert fit.size(text) == bytes


@pytest.mark.parametrize(
    "text", ["80 gallons", "3apples", "GiB", "", "1.2.3GiB", "-5GiB", "0", "0GiB",
             "9" * 400],
    ids=lambda text: text[:10])
def test_an_invalid_memory_size_is_refused(text):
  with pytest.raises(ValueError, match="takes a size such as '80GiB'"):
    fit.size(text)
