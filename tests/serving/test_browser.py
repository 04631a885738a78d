"""The search page in Chromium: typing, dropping, a bad upload, at two widths."""

import base64
import shutil
import threading
import time

import numpy as np
import pages
import pytest
import uvicorn
from playwright import sync_api

from basic import files, serve
from basic.serving import app

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no Chromium on this machine"
)
LIMIT = 20_000
# What a person does who drops a file on the page.
DROP = """([name, type, data]) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, {type}));
  document.getElementById("drop").dispatchEvent(new DragEvent(
      "drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
}"""


@pytest.fixture(scope="module")
def address():
  _, _, answers = pages.parts()
  with serve._bound("127.0.0.1", 0) as listener:
    server = uvicorn.Server(uvicorn.Config(
        app.app(answers, upload=LIMIT), log_level="warning", ws="none",
        lifespan="off",
    ))
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
      time.sleep(0.02)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def browser():
  with sync_api.sync_playwright() as playwright:
    # Its sandbox needs what containers do not give to root.
    found = playwright.chromium.launch(
        executable_path=CHROMIUM, args=["--no-sandbox"])
    yield found
    found.close()


@pytest.fixture(params=[390, 1280])
def page(request, browser, address):
  """The page at a width; what its console says fails the test."""
  found = browser.new_page(viewport={"width": request.param, "height": 800})
  said = []
  found.on("console", lambda message: said.append(message.text))
  found.on("pageerror", lambda error: said.append(str(error)))
  found.goto(address)
  found.wait_for_selector("#count:not(:empty)")
  yield found
  # The browser itself notes each answer that is an error.
  assert [text for text in said if "status of 422" not in text] == []
  wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
  assert not found.evaluate(wide), "the page is wider than the window"
  found.close()


def until(page, expression):
  """Waits for a condition; the page's own policy forbids Playwright's way."""
  for _ in range(500):
    if page.evaluate(expression):
      return
    page.wait_for_timeout(20)
  raise AssertionError(f"never: {expression}")


def drop(page, name, kind, data):
  page.evaluate(DROP, [name, kind, base64.b64encode(data).decode()])


def test_a_person_types_drops_and_errs(page):
  model, source, _ = pages.parts()
  assert page.inner_text("h1") == f"Search {pages.COUNT - 1} pictures"
  assert "1 more cannot be read" in page.inner_text("#model")

  page.fill("#text", "a seven")
  page.press("#text", "Enter")
  page.wait_for_selector("#found li")
  scores = model.similarity(source.pixels, "a seven")[:, 0]
  scores[3] = -np.inf
  order = np.argsort(-scores, kind="stable")[: pages.COUNT - 1]
  names = page.locator("#found li small:first-of-type").all_inner_texts()
  expected = [files.printable(source.name(n)) for n in order]
  assert "<b>0</b>.png" in names and names == expected  # as text, not as HTML
  captions = page.locator("#found li p").all_inner_texts()
  assert captions == [f"{pages.HOSTILE} {n}" for n in order]
  assert page.title() == "Search"
  until(
      page, "[...document.querySelectorAll('#found img')].slice(0, 2)"
      ".every((image) => image.naturalWidth == 24)")

  drop(page, "mine.png", "image/png", pages.png(source.pixels[5][..., 0]))
  page.wait_for_selector("#picture:not([hidden])")
  assert page.inner_text("h2") == "Nearest to mine.png"
  assert page.inner_text("#found li:first-child small") == "<b>5</b>.png"
  until(page, "document.getElementById('preview').naturalWidth == 24")

  page.fill("#names", "one, <i>two</i>, three")
  page.click("#classes button")
  page.wait_for_selector("#probabilities li")
  found = model.classify(source.pixels[5], ["one", "<i>two</i>", "three"])
  first = page.locator("#probabilities li:first-child span").all_inner_texts()
  assert first == [found.best[0], f"{100 * found.probabilities.max():.1f} %"]

  for name, kind, data, words in (
      ("broken.png", "image/png", b"hello", "unknown image format"),
      ("note.txt", "text/plain", b"hello", "note.txt is no picture"),
      ("large.png", "image/png", b"x" * (LIMIT + 1), "large.png is too large"),
  ):
    drop(page, name, kind, data)
    until(page, f"document.getElementById('error').textContent.includes('{words}')")
    assert page.inner_text("h2") == "Nearest to mine.png"  # What was there stays.
  page.fill("#names", "one, two")  # Of the picture that is still shown.
  page.click("#classes button")
  until(page, "document.querySelectorAll('#probabilities li').length == 2")
  assert page.is_hidden("#error")


def test_a_blank_search_is_answered_in_words(browser, address):
  page = browser.new_page()
  page.goto(address)
  page.wait_for_selector("#count:not(:empty)")
  page.click("#words button")
  page.wait_for_selector("#error:not([hidden])")
  assert page.inner_text("#error") == "Type some words first."
  page.close()


@pytest.mark.slow  # On a busy machine the browser's dialog may come too late.
def test_a_picture_is_chosen_with_the_keyboard(page):
  _, source, _ = pages.parts()
  page.focus("#file")
  with page.expect_file_chooser() as chooser:
    page.keyboard.press("Space")
  chooser.value.set_files({
      "name": "chosen.png", "mimeType": "image/png",
      "buffer": pages.png(source.pixels[0][..., 0]),
  })
  page.wait_for_selector("#found li")
  assert page.inner_text("#found li:first-child small") == "<b>0</b>.png"
