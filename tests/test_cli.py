"""Programs end with a status that means something, and a sentence."""

import errno
import signal
import threading

import jax
import pytest

from basic import cli


def ended(error):
  with pytest.raises(SystemExit) as end, cli.sentences():
    raise error
  return end.value.code


@pytest.mark.parametrize("kind", [
    ValueError, FileNotFoundError, RuntimeError, FloatingPointError, ImportError,
])
def test_what_bad_input_raises_becomes_a_sentence(kind):
  assert ended(kind("give a multiple of 8")) == (
      f"{kind.__name__}: give a multiple of 8"
  )


def test_notes_are_part_of_the_sentence():
  error = ValueError("it is torn")
  error.add_note("while reading example 3 of 10")
  assert ended(error) == "ValueError: it is torn\nwhile reading example 3 of 10"


def test_a_mistake_of_the_program_keeps_its_traceback():
  for error in (TypeError("none"), KeyError("x"), jax.errors.JaxRuntimeError("")):
    with pytest.raises(type(error)), cli.sentences():
      raise error


def test_a_full_disk_is_called_by_its_name_and_the_advice_comes_last():
  said = ended(OSError(errno.ENOSPC, "No space left on device", "a/b.json"))
  assert said.splitlines()[0].endswith("No space left on device: 'a/b.json'")
  assert said.splitlines()[-1].startswith("The disk is full. Make room on it")


def test_a_stop_has_a_status_of_its_own(capsys):
  assert ended(cli.Stopped("stopped after step 7")) == 42
  assert capsys.readouterr().err == "stopped after step 7\n"


def test_the_second_request_does_not_wait():
  # Programs that a shell starts in the background ignore Ctrl-C.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    with cli.requests() as asked:
      assert asked == []
      signal.raise_signal(signal.SIGINT)
      assert asked == ["SIGINT"]
      with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
  finally:
    signal.signal(signal.SIGINT, before)


def test_signals_mean_afterwards_what_they_meant_before():
  before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
  with cli.requests():
    inside = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    assert set(inside).isdisjoint(before)
  assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_thread_and_a_cluster_leave_signals_alone(monkeypatch):
  before = signal.getsignal(signal.SIGTERM)

  def look():
    with cli.requests():
      found.append(signal.getsignal(signal.SIGTERM))

  found = []
  thread = threading.Thread(target=look)
  thread.start()
  thread.join()
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  look()
  assert found == [before, before]
