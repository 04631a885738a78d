"""Every process learns what the others have, however long it is."""

import threading

import numpy as np
import pytest

from basic.engine import exchange


class Cluster:
  """Processes that are threads, and gather as JAX's do: equal shapes only."""

  def __init__(self, count):
    self._barrier = threading.Barrier(count, timeout=10)
    self._given = [None] * count
    self._own = threading.local()
    self.calls = 0

  def gather(self, array):
    self._given[self._own.index] = array
    if self._barrier.wait() == 0:
      self.calls += 1
    found = np.stack(self._given)  # Refuses unequal shapes.
    self._barrier.wait()
    return found

  def run(self, contents):
    found = [None] * len(contents)

    def process(index):
      self._own.index = index
      found[index] = exchange.exchange(contents[index])

    threads = [
        threading.Thread(target=process, args=(n,)) for n in range(len(contents))
    ]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    return found


@pytest.mark.parametrize(("contents", "calls"), [
    ([[1], [2, 3], [[4, "é", None]]], 2),
    ([[], ["a" * 100_000], []], 2),
    ([{}, {"a": 1}, {}], 2),
    ([[], [], []], 1),
])
def test_all_learn_the_same_in_the_order_of_processes(
    monkeypatch, contents, calls
):
  cluster = Cluster(3)
  monkeypatch.setattr(exchange.jax, "process_count", lambda: 3)
  monkeypatch.setattr(exchange, "_gather", cluster.gather)
  assert cluster.run(contents) == [contents] * 3
  assert cluster.calls == calls


def test_alone_a_process_has_what_it_gave():
  assert exchange.exchange([1]) == [[1]]
