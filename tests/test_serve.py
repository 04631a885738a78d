"""python -m basic.serve: what it refuses before it embeds, and that it serves."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
import tiny
from starlette import testclient

from basic import serve


@pytest.fixture(autouse=True)
def toys_are_installed(monkeypatch, tmp_path):
  tiny.install(monkeypatch)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


SOURCE = dict(name="digits", canvas=24, channels=1, split="test", length=10)


def test_a_source_is_served_by_the_names_that_are_given(capsys):
  built = serve.application(
      source=SOURCE, workdir=str(tiny.whole()), names=("box",), upload_mb=0.5)
  assert "Index of 10 items" in capsys.readouterr().out
  with testclient.TestClient(built, base_url="http://box:8000") as client:
    assert client.get("/about").json()["upload"] == 2**19
    found = client.get("/search", params={"text": "a seven", "k": 3}).json()["found"]
    assert len(found) == 3 and found[0]["caption"]
    assert client.get(f"/thumbnail/{found[0]['number']}").status_code == 200
    assert client.get("/about", headers={"host": "other"}).status_code == 421


@pytest.mark.parametrize(("changes", "words"), [
    (dict(workdir=None), "give one of --workdir RUN and --weights"),
    (dict(weights="hf_clip:x"), "give one of --workdir RUN and --weights"),
    (dict(port=70_000), "0 to 65535"), (dict(upload_mb=0.0), "more than 0 megabytes"),
    (dict(source=dict(name="digit")), "digits"),
])
def test_wrong_settings_get_a_sentence(changes, words):
  settings = dict(source=SOURCE, workdir=str(tiny.whole()))
  with pytest.raises(ValueError, match=words):
    serve.application(**{**settings, **changes})


def test_a_port_that_is_taken_is_noticed_before_anything_is_embedded(monkeypatch):
  monkeypatch.setattr(serve, "application", lambda **_: pytest.fail("embedded"))
  with socket.create_server(("127.0.0.1", 0)) as other:
    with pytest.raises(OSError, match="Another program may be using it"):
      serve.serve(source=SOURCE, port=other.getsockname()[1])


def test_what_is_not_installed_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "uvicorn", None)
  with pytest.raises(ImportError, match=r"pip install -e '.\[serve\]'"):
    serve.application(source=SOURCE, workdir=str(tiny.whole()))


def test_help_is_printed(capsys):
  serve.main(["--help"])
  assert "--source.path=pictures" in capsys.readouterr().out


@pytest.mark.slow
def test_the_program_serves_until_it_is_interrupted(tmp_path):
  environment = {
      **os.environ, "PYTHONPATH": f"{tiny.ROOT}:{tiny.ROOT / 'tests'}",
      "PYTHONUNBUFFERED": "1",
  }
  process = subprocess.Popen(
      [sys.executable, str(tiny.ROOT / "tests/tiny.py"), "basic.serve", "--port", "0",
       "--workdir", str(tiny.whole()), "--source.name=digits", "--source.canvas=24",
       "--source.split=test", "--source.length=10", f"--cache={tmp_path}"],
      env=environment, stdout=subprocess.PIPE, text=True,
  )
  try:
    line = next(line for line in process.stdout if line.startswith("http://127"))
    with urllib.request.urlopen(f"{line.split()[0]}about") as answer:
      assert b'"count":10' in answer.read()
    process.send_signal(signal.SIGINT)
    process.wait(30)
  finally:
    process.kill()
    process.stdout.close()
