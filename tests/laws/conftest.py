"""What the laws of sources and of streams share."""

import pytest
import written


@pytest.fixture(scope="session")
def paths(tmp_path_factory):
  """What stands in braces in settings -> the path of a small data set."""
  return {
      name: write(tmp_path_factory.mktemp(name.strip("{}")))
      for name, write in written.WRITERS.items()
  }
