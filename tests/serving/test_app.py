"""The search page answers in JSON, whatever is sent to it, and guards itself."""

import dataclasses
import io
import re
import zlib

import anyio
import numpy as np
import pages
import pytest
from PIL import Image
from starlette import testclient

from basic import files
from basic.data import decoding
from basic.serving import app, guards, service

LIMIT = 20_000
PNG = {"content-type": "image/png"}
UPLOAD = {  # a request of ASGI, without the length of its body
    "type": "http", "method": "POST", "path": "/search", "query_string": b"",
    "headers": [(b"host", b"localhost"), (b"content-type", b"image/png")],
    "http_version": "1.1", "scheme": "http", "root_path": "",
}


@pytest.fixture(scope="module")
def client():
  _, _, answers = pages.parts()
  with testclient.TestClient(
      app.app(answers, upload=LIMIT, names=("box",)), base_url="http://127.0.0.1:8000"
  ) as found:
    yield found


def picture(number):
  _, source, _ = pages.parts()
  return pages.png(source.pixels[number][..., 0])


def bomb():
  """A small PNG that says it has 60,000 by 60,000 pixels."""
  data = bytearray(pages.png(np.zeros((8, 8), np.uint8)))
  data[16:24] = (60_000).to_bytes(4, "big") * 2
  data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
  return bytes(data)


def test_words_find_the_nearest_pictures(client):
  model, source, _ = pages.parts()
  found = client.get("/search", params={"text": " a seven ", "k": 5}).json()["found"]
  scores = model.similarity(source.pixels, "a seven")[:, 0]
  scores[3] = -np.inf  # It cannot be read.
  order = np.argsort(-scores, kind="stable")[:5]
  assert [each["number"] for each in found] == order.tolist()
  np.testing.assert_allclose(
      [each["score"] for each in found], scores[order], atol=2e-6)
  assert found[0]["name"] == files.printable(source.name(order[0]))
  assert found[0]["caption"] == f"{pages.HOSTILE} {order[0]}"
  everything = client.get("/search", params={"text": "a", "k": 60}).json()["found"]
  assert len(everything) == pages.COUNT - 1
  assert "caf\\udce9.png" in {each["name"] for each in everything}


def test_a_picture_finds_itself_first(client):
  for number in (0, 5):
    for kind in ("image/png", "application/octet-stream", "image/jpeg; x=y"):
      found = client.post(
          "/search", content=picture(number), headers={"content-type": kind})
      assert found.json()["found"][0]["number"] == number
      assert found.json()["found"][0]["score"] == pytest.approx(1, abs=1e-5)


def test_names_get_the_probabilities_of_the_model(client):
  model, source, _ = pages.parts()
  names = ["one", "two", "a <b> ü"]
  found = client.post(
      "/classify", params={"name": [*names, " one "]}, content=picture(2), headers=PNG
  ).json()["names"]
  row = model.classify(source.pixels[2], names).probabilities[0]
  assert {each["name"] for each in found} == set(names)
  for each in found:
    expected = row[names.index(each["name"])]
    assert each["probability"] == pytest.approx(expected, rel=1e-4)
  shares = [each["probability"] for each in found]
  assert shares == sorted(shares, reverse=True)


def test_a_thumbnail_is_the_picture_and_no_larger_than_it_needs_to_be(client):
  _, source, answers = pages.parts()
  answer = client.get("/thumbnail/4")
  assert answer.headers["content-type"] == "image/jpeg"
  pixels = decoding.decode(answer.content, channels=1)
  expected = io.BytesIO()
  Image.fromarray(source.pixels[4][..., 0]).save(expected, "JPEG", quality=85)
  theirs = decoding.decode(expected.getvalue(), channels=1)
  assert np.abs(pixels.astype(int) - theirs).mean() < 3
  large = {"image": decoding.Encoded(pages.png(np.zeros((3000, 400, 3), np.uint8)))}
  answers._index.source.__class__ = type(
      "Large", (pages.Pictures,), {"__getitem__": lambda self, n: large})
  try:
    assert decoding.decode(answers.thumbnail(7)).shape == (256, 34, 3)
  finally:
    answers._index.source.__class__ = pages.Pictures
    answers.thumbnail.cache_clear()


BAD = {  # request -> (status, words)
    "empty": (dict(content=b""), 400, "is empty"),
    "no picture": (dict(content=b"hello"), 422, "unknown image format"),
    "truncated": (dict(content=pages.png(np.zeros((90, 90), np.uint8))[:60]), 422,
                  "cannot be read: truncated image|broken image"),
    "bomb": (dict(content=bomb()), 422, "image too large"),
    "large": (dict(content=b"\x89PNG" * LIMIT), 413, r"too large; .* 0\.0191 MB"),
    "wrong length": (dict(content=b"x", headers={**PNG, "content-length": "-5"}), 413,
                     "too large"),
    "text": (dict(content=b"x", headers={"content-type": "text/plain"}), 415,
             "kind text/plain; drop a picture"),
    "form": (dict(data={"a": "b"}, headers={}), 415, "x-www-form-urlencoded"),
    "unknown k": (dict(content=b"x", params={"k": "²"}), 400, "takes a number"),
    "negative k": (dict(content=b"x", params={"k": "-1"}), 400, "takes a number"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_upload_is_refused_in_a_sentence(client, name):
  request, status, words = BAD[name]
  answer = client.post("/search", **{"headers": PNG, **request})
  assert answer.status_code == status
  assert answer.json().keys() == {"error"}
  assert re.search(words, answer.json()["error"]), answer.json()
  assert not re.search(r"Traceback|site-packages|/tmp|images\[0\]", answer.text)


def test_k_is_from_1_to_60(client):
  for k in (0, 61):
    answer = client.post(
        "/search", params={"k": k}, content=picture(0), headers=PNG)
    assert answer.status_code == 400 and "Ask for 1 to 60" in answer.json()["error"]


def test_no_more_is_read_of_an_upload_than_is_allowed(client):
  read = []

  def endless():
    for _ in range(1000):
      read.append(1)
      yield b"x" * 5000

  async def receive():
    return {"type": "http.request", "body": next(parts), "more_body": True}

  async def send(message):
    sent.append(message)

  parts, sent = endless(), []
  anyio.run(client.app, UPLOAD, receive, send)
  assert sent[0]["status"] == 413
  assert len(read) == LIMIT // 5000 + 1


def test_an_upload_that_does_not_arrive_ends():
  _, _, answers = pages.parts()

  async def receive():
    await anyio.sleep(10)

  async def send(message):
    sent.append(message)

  sent = []
  anyio.run(app.app(answers, seconds=0.05), UPLOAD, receive, send)
  assert sent[0]["status"] == 408 and b"did not arrive" in sent[1]["body"]


@pytest.mark.parametrize(("path", "status", "words"), [
    ("/search?text=", 400, "Type some words"), ("/search", 400, "Type some words"),
    (f"/search?text={'x' * 501}", 400, "at most 500"),
    ("/thumbnail/99", 404, "no picture 99"), ("/thumbnail/3", 404, "cannot be read"),
    ("/thumbnail/-1", 404, "Not Found"), ("/nothing", 404, "Not Found"),
    ("/../setup.cfg", 404, "Not Found"), ("/%2e%2e/setup.cfg", 404, "Not Found"),
])
def test_what_is_not_there_is_said(client, path, status, words):
  answer = client.get(path)
  assert answer.status_code == status
  assert words in answer.json()["error"]


def test_names_that_cannot_be_compared_are_refused(client):
  for names in ([], ["a"], ["a", " a"], [f"n{n}" for n in range(101)]):
    answer = client.post(
        "/classify", params={"name": names}, content=picture(0), headers=PNG)
    assert answer.status_code == 400
    assert "2 to 100 different names" in answer.json()["error"]


def test_an_error_of_ours_is_a_sentence_and_in_the_log(monkeypatch, caplog):
  _, _, answers = pages.parts()
  monkeypatch.setattr(answers, "words", lambda text, k: 1 // 0)
  with testclient.TestClient(
      app.app(answers), base_url="http://localhost", raise_server_exceptions=False
  ) as client:
    answer = client.get("/search?text=a")
  assert answer.status_code == 500 and "log says why" in answer.json()["error"]
  assert "ZeroDivisionError" in caplog.text
  assert answer.headers["content-security-policy"] == guards.POLICY


@pytest.mark.parametrize(("host", "answered"), [
    ("localhost", True), ("localhost:8000", True), ("127.0.0.1:9", True),
    ("[::1]:8000", True), ("192.168.1.7:8000", True), ("BOX:8000", True),
    ("evil.example", False), ("localhost.evil.example", False), ("", False),
    ("127.0.0.1.evil.example:8000", False), ("[::1", False), ("localhost@evil", False),
])
def test_only_hosts_of_this_machine_are_answered(client, host, answered):
  answer = client.get("/about", headers={"host": host})
  assert answer.status_code == (200 if answered else 421)


@pytest.mark.parametrize(("headers", "answered"), [
    ({"origin": "http://127.0.0.1:8000"}, True),
    ({"sec-fetch-site": "same-origin"}, True), ({"sec-fetch-site": "none"}, True),
    ({"origin": "http://evil.example"}, False), ({"origin": "null"}, False),
    ({"origin": "http://["}, False), ({"origin": ""}, False),
    ({"origin": "http://127.0.0.1:9999"}, False),
    ({"sec-fetch-site": "cross-site"}, False), ({"sec-fetch-site": "same-site"}, False),
])
def test_pages_of_other_sites_are_not_answered(client, headers, answered):
  answer = client.get("/search?text=a", headers=headers)
  assert answer.status_code == (200 if answered else 403)
  assert "access-control-allow-origin" not in answer.headers


def test_every_answer_has_the_headers_that_protect_the_page(client):
  for path in ("/", "/search.js", "/about", "/thumbnail/0", "/nothing"):
    headers = client.get(path).headers
    for name, value in guards.HEADERS.items():
      assert headers[name] == value
  refused = client.get("/about", headers={"host": "evil.example"})
  assert refused.headers["content-security-policy"] == guards.POLICY
  # The next collection at this address has other pictures.
  assert client.get("/thumbnail/0").headers["cache-control"] == "no-store"
  assert client.get("/about").headers["cache-control"] == "no-store"


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere(client):
  page = client.get("/").text
  assert not re.search(r"<style|style=|<script(?! src=\"/)| on\w+=|https?:", page)
  for link in re.findall(r"(?:src|href)=\"([^\"]+)\"", page):
    assert client.get(link).status_code == 200
  script = client.get("/search.js").text
  assert not re.search(r"innerHTML|insertAdjacent|document\.write|eval\(", script)


def test_a_model_without_words_says_so(client):
  model, _, answers = pages.parts()
  alone = service.Service.__new__(service.Service)
  alone.__dict__.update({**vars(answers), "_reads": {"image"}, "_compares": False})
  with testclient.TestClient(app.app(alone), base_url="http://localhost") as other:
    about = other.get("/about").json()
    assert about["words"] is about["probabilities"] is False
    assert "reads no words" in other.get("/search?text=a").json()["error"]
    answer = other.post(
        "/classify?name=a&name=b", content=picture(0), headers=PNG)
    assert answer.status_code == 400 and "no probabilities" in answer.json()["error"]
  assert client.get("/about").json() == {
      "model": model.towers.origin, "count": pages.COUNT - 1, "unreadable": 1,
      "words": True, "probabilities": True, "upload": LIMIT,
  }


@pytest.mark.parametrize(("host", "warned"), [
    ("127.0.0.1", False), ("localhost", False), ("::1", False), ("127.9.9.9", False),
    ("0.0.0.0", True), ("::", True), ("192.168.1.7", True), ("box", True),
])
def test_a_host_that_others_reach_is_warned_of(host, warned):
  assert bool(guards.open_to_others(host)) == warned
  assert ("no password" in guards.open_to_others(host)) == warned


def test_only_the_pictures_asked_for_are_named(monkeypatch):
  _, source, answers = pages.parts()
  named = []
  index = answers._index

  def name(number):
    named.append(number)
    return source.name(number)

  monkeypatch.setattr(answers, "_index", dataclasses.replace(index, name=name))
  found = answers.words("a seven", 2)
  assert named == [each["number"] for each in found] and len(named) == 2
